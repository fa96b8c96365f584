"""The command `otel-fastperf`, with a real service and saved reports: its output and exit codes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from otel_fastperf import Report, Severity
from otel_fastperf.cli.debug_client import Service
from otel_fastperf.cli.main import main
from otel_fastperf.errors import AskingError
from tests.reports import GROWTH, SHOP
from tests.serving import ROOT, Command, answering, free_port, run_server

TOKEN: Final = "correct horse battery staple"

APP: Final = """
from collections.abc import Iterator

from fastapi import FastAPI

from otel_fastperf import Finding, RequestView, Severity, setup_telemetry

app = FastAPI()
telemetry = setup_telemetry(app)
kept = []


def look(record: RequestView) -> Iterator[Finding]:
    if record.route == "/slow":
        yield Finding(
            kind="house_rule", severity=Severity.WARNING, subject="slow", message="/slow is slow.", remedy="hurry up"
        )


telemetry.add_detector(look)


@app.get("/slow")
async def slow() -> int:
    return len([kept.append(bytearray(1000)) for _ in range(100)])
"""


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Runner:
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as error:  # argparse
            code = int(str(error.code))
        out, err = self.capsys.readouterr()
        return Ran(code, out, err)

    def failing(self, *arguments: str) -> str:
        """Run a command that must fail, and return its only line of output."""
        ran = self(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("otel-fastperf: ")
        assert ran.err.count("\n") == 1
        assert "Remedy: " in ran.err
        assert "Traceback" not in ran.err
        return ran.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


@contextmanager
def service(folder: Path, **environment: str) -> Iterator[Command]:
    (folder / "little_shop.py").write_text(APP)
    command = ["uvicorn", "little_shop:app", "--port", "{port}", "--app-dir", str(folder)]
    with run_server(command, log=folder / "log", environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with service(tmp_path_factory.mktemp("shop"), OTEL_SERVICE_NAME="little shop") as server:
        assert server.get("/slow").status == 200
        yield server


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "report.json"
    file.write_text(SHOP.to_json())
    return file


# doctor, of a running service


def test_doctor_gets_the_report_of_a_running_service(run: Runner, shop: Command) -> None:
    ran = run("doctor", shop.url, "--format", "json")
    report = Report.from_json(ran.out)
    assert report.service == "little shop"
    assert [finding.kind for finding in report.findings] == ["house_rule"]
    assert (ran.code, ran.err) == (1, "")


def test_doctor_shows_the_report_as_text(run: Runner, shop: Command) -> None:
    ran = run("doctor", shop.url)
    assert ran.code == 1
    assert "/slow is slow." in ran.out
    assert "hurry up" in ran.out
    assert "\x1b" not in ran.out  # no terminal


@pytest.mark.parametrize(
    "target", ["{url}", "{url}/", "{url}/debug/fastperf", "127.0.0.1:{port}", "localhost:{port}", ":{port}"]
)
def test_a_service_can_be_named_by_a_short_address(run: Runner, shop: Command, target: str) -> None:
    assert (
        run("doctor", target.format(url=shop.url, port=shop.port), "--fail-on", "never", "--format", "json").code == 0
    )


def test_the_address_0_0_0_0_means_this_machine(run: Runner, shop: Command) -> None:
    assert run("doctor", f"http://0.0.0.0:{shop.port}", "--fail-on", "critical").code == 0


def test_proxies_of_the_environment_are_bypassed_for_this_machine(
    run: Runner, shop: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    assert run("doctor", shop.url, "--fail-on", "never").code == 0


def test_the_command_runs_as_a_module_and_in_a_pipe(shop: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "otel_fastperf", "doctor", shop.url],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "/slow is slow." in done.stdout


# doctor, of a saved report


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_pipe_that_cannot_take_a_character_gets_another_one(saved: Path, encoding: str) -> None:
    """As on Windows, where a pipe has the encoding of the country."""
    done = subprocess.run(
        [sys.executable, "-m", "otel_fastperf", "doctor", str(saved)],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"??" in done.stdout


@pytest.mark.parametrize(
    ("fail_on", "severity", "code"),
    [
        ("info", Severity.INFO, 1),
        ("warning", Severity.INFO, 0),
        ("warning", Severity.WARNING, 1),
        ("warning", Severity.CRITICAL, 1),
        ("critical", Severity.WARNING, 0),
        ("critical", Severity.CRITICAL, 1),
        ("never", Severity.CRITICAL, 0),
        (None, Severity.INFO, 0),
        (None, Severity.WARNING, 1),
    ],
)
def test_the_exit_code_says_if_there_are_findings_of_a_level(
    run: Runner, tmp_path: Path, fail_on: str | None, severity: Severity, code: int
) -> None:
    file = tmp_path / "report.json"
    file.write_text(replace(SHOP, findings=(replace(GROWTH, severity=severity),)).to_json())
    options = [] if fail_on is None else ["--fail-on", fail_on]
    assert run("doctor", str(file), *options).code == code


def test_a_report_without_findings_exits_with_0(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(replace(SHOP, findings=()).to_json())
    assert run("doctor", str(file), "--fail-on", "info").code == 0


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("out.html", [], "<!doctype html>"),
        ("out.json", [], "{"),
        ("out.txt", ["--format", "html"], "<!doctype html>"),
    ],
)
def test_the_file_name_or_the_option_chooses_the_format(
    run: Runner, tmp_path: Path, saved: Path, name: str, options: list[str], start: str
) -> None:
    ran = run("doctor", str(saved), "-o", str(tmp_path / name), *options)
    assert (ran.code, ran.out) == (1, "")
    assert (tmp_path / name).read_text().lower().startswith(start)
    assert name in ran.err


def test_a_saved_report_is_printed_unchanged_as_json(run: Runner, saved: Path) -> None:
    assert Report.from_json(run("doctor", str(saved), "--format", "json").out) == SHOP


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)]
)
def test_a_terminal_gets_colour_unless_no_color_is_set(
    run: Runner, saved: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert ("\x1b[" in run("doctor", str(saved)).out) is coloured


# errors


def test_a_service_that_is_not_running_is_an_error(run: Runner) -> None:
    said = run.failing("doctor", f"http://127.0.0.1:{free_port()}")
    assert "nothing listens there. Remedy: start the service" in said


def test_an_unknown_host_is_an_error(run: Runner) -> None:
    assert "cannot be reached" in run.failing("doctor", "http://shop.invalid:8000")


@pytest.mark.parametrize(
    "target", ["ftp://shop:21", "file:///etc/passwd", "http://", "http://shop:port", "http://[::1"]
)
def test_an_invalid_url_is_an_error(run: Runner, target: str) -> None:
    assert "is not the URL of a service" in run.failing("doctor", target)


def test_a_404_lists_the_possible_reasons(run: Runner, shop: Command) -> None:
    said = run.failing("doctor", shop.url, "--path", "/other")
    assert f"{shop.url}/other responds 404 (not found)" in said
    for reason in ("own machine", "proxy", "--path", "OTEL_FASTPERF_DEBUG_ENABLED", "OTEL_FASTPERF_DEBUG_TOKEN"):
        assert reason in said


def test_a_page_that_is_not_a_report_is_an_error(run: Runner, shop: Command) -> None:
    said = run.failing("doctor", f"{shop.url}/metrics")
    assert f"{shop.url}/metrics" in said
    assert "not a report" in said


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": 99}', "\xff\x00", "[" * 100_000])
def test_a_file_that_is_not_a_report_is_an_error(run: Runner, tmp_path: Path, content: str) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content.encode("latin-1"))
    assert str(file) in run.failing("doctor", str(file))


def test_a_missing_file_is_an_error(run: Runner, tmp_path: Path) -> None:
    assert "is not a file" in run.failing("doctor", str(tmp_path / "report.json"))
    assert "is not a file" in run.failing("doctor", "report")


def test_a_file_that_cannot_be_written_is_an_error(run: Runner, saved: Path, tmp_path: Path) -> None:
    ran = run("doctor", str(saved), "-o", str(tmp_path / "nowhere" / "out.html"))
    assert (ran.code, ran.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "arguments", [(), ("other",), ("doctor", "--format", "xml"), ("allocations", "--seconds", "61"),
                  ("allocations", "--seconds", "nan"), ("doctor", "--fail-on", "always")]
)  # fmt: skip
def test_wrong_arguments_print_the_usage(run: Runner, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert "usage: otel-fastperf" in ran.err


@pytest.mark.parametrize("command", [(), ("doctor",), ("allocations",), ("check",)])
def test_help_lists_the_exit_codes(run: Runner, command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert ran.code == 0
    assert "the service cannot be reached" in ran.out


# tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with service(tmp_path_factory.mktemp("guarded"), OTEL_FASTPERF_DEBUG_TOKEN=TOKEN) as server:
        yield server


def test_the_token_is_read_from_the_option_or_the_environment(
    run: Runner, guarded: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("doctor", guarded.url, "--token", TOKEN).code == 0
    monkeypatch.setenv("OTEL_FASTPERF_DEBUG_TOKEN", TOKEN)
    assert run("doctor", guarded.url).code == 0


def test_a_missing_or_wrong_token_is_an_error(run: Runner, guarded: Command) -> None:
    assert "requires a token. Remedy: " in run.failing("doctor", guarded.url)
    said = run.failing("doctor", guarded.url, "--token", "another one")
    assert "rejects this token" in said
    assert "another one" not in said
    assert "requires a token" in run.failing("allocations", guarded.url, "--seconds", "1")


@pytest.mark.parametrize("token", ["new\nline", "käse", "鍵"])
def test_a_token_with_any_characters_causes_no_crash(run: Runner, guarded: Command, token: str) -> None:
    assert token not in run.failing("doctor", guarded.url, "--token", token)


def test_the_token_is_not_sent_to_the_target_of_a_redirect(run: Runner) -> None:
    with answering(200, {}) as (thief, stolen), answering(307, {"location": f"{thief}/debug/fastperf"}) as (url, asked):
        said = run.failing("doctor", url, "--token", TOKEN)
    assert "redirects to" in said
    assert len(asked) == 1
    assert stolen == []


@pytest.mark.parametrize("status", [400, 403, 500, 502, 503])
def test_any_other_status_is_an_error_of_one_line(run: Runner, status: int) -> None:
    with answering(status, {}, b"<html>\x1b[31m") as (url, _asked):
        assert f"responds {status}" in run.failing("doctor", url)


def test_control_characters_from_a_server_do_not_reach_the_terminal(run: Runner) -> None:
    with answering(302, {"location": "http://a/\x1b]0;evil\x07"}) as (url, _asked):
        assert "\x1b" not in run.failing("doctor", url)


def test_the_error_for_a_silent_service_suggests_a_blocked_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("otel_fastperf.cli.debug_client._REPORT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(AskingError) as raised:
        Service.at(f"127.0.0.1:{silent.getsockname()[1]}", path="/debug/fastperf").report()
    assert "Its event loop may be blocked right now" in str(raised.value)


# allocations


def test_allocations_are_traced_and_shown_by_line(run: Runner, shop: Command) -> None:
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(0.01):
            shop.get("/slow")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        ran = run("allocations", shop.url, "--seconds", "1")
    finally:
        stop.set()
        thread.join()
    assert (ran.code, ran.err) == (0, "")
    line = next(line for line in ran.out.splitlines() if "little_shop.py" in line)
    kib, blocks, where = line.split()
    assert int(kib.replace(",", "")) >= 50
    assert int(blocks.replace(",", "")) >= 50
    assert where.endswith(f"little_shop.py:{1 + APP[: APP.index('return len')].count(chr(10))}")


def test_a_wrong_answer_to_allocations_is_an_error(run: Runner) -> None:
    for body in (b"{}", b"no", b"[]"):
        with answering(200, {}, body) as (url, _asked):
            assert "did not respond with a result of otel-fastperf" in run.failing("allocations", url, "--seconds", "1")
    with answering(409, {}) as (url, _asked):
        assert "is already tracing allocations" in run.failing("allocations", url, "--seconds", "1")


# check


def check(folder: Path, *arguments: str, **environment: str) -> Ran:
    """Run the check in a new process, in the folder of an app."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "WEB_"))}
    done = subprocess.run(
        [sys.executable, "-m", "otel_fastperf", "check", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        text=True,
        capture_output=True,
        check=False,
        timeout=100,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def app_file(folder: Path, text: str) -> Path:
    (folder / "main.py").write_text(text)
    return folder


def levels(ran: Ran) -> dict[str, str]:
    return {each["name"]: each["level"] for each in json.loads(ran.out)}


def test_check_reads_the_app_and_its_environment(tmp_path: Path) -> None:
    ran = check(app_file(tmp_path, "print('starting')\n" + APP), "main:app", OTEL_SERVICE_NAME="shop")
    assert ran.code == 0
    assert "ok    settings: The settings are valid.\n" in ran.out
    assert "ok    setup: setup_telemetry was called for the app.\n" in ran.out
    assert "starting" not in ran.out


def test_check_lists_problems_with_remedies(tmp_path: Path) -> None:
    text = """
from fastapi import FastAPI
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from sqlalchemy import create_engine

app = FastAPI()
engine = create_engine("sqlite://")


@app.get("/")
async def root() -> int:
    return 1


@app.get("/other")
async def other() -> int:
    return 1


FastAPIInstrumentor.instrument_app(app)
"""
    endpoint = f"http://127.0.0.1:{free_port()}"
    ran = check(
        app_file(tmp_path, text), "main:app", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, WEB_CONCURRENCY="3",
        FORWARDED_ALLOW_IPS="*", OTEL_FASTPERF_WORKERS_ENABLED="false",
    )  # fmt: skip
    assert ran.code == 1
    assert "warn  setup: " in ran.out
    assert "      Remedy: write setup_telemetry(app) on the line after app = FastAPI()\n" in ran.out
    assert "bad   collector: No collector responds at 127.0.0.1:" in ran.out
    assert "warn  engines: 2 of 2 routes are async def, and there is a synchronous engine (sqlite+pysqlite)" in ran.out
    for name in ("service name", "workers", "debug route"):
        assert f"warn  {name}: " in ran.out


def test_check_finds_async_engines_and_routes_of_routers_and_mounts(tmp_path: Path) -> None:
    text = """
from fastapi import APIRouter, FastAPI
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

app, router, inner = FastAPI(), APIRouter(), FastAPI()
engines = create_engine("sqlite://"), create_async_engine("sqlite+aiosqlite://")


@router.get("/a")
async def a() -> int:
    return 1


@inner.get("/b")
async def b() -> int:
    return 1


app.include_router(router, prefix="/r")
app.mount("/m", inner)
"""
    ran = check(app_file(tmp_path, text), "main:app", "--format", "json")
    assert levels(ran)["engines"] == "info"
    assert "2 of 2 routes" in ran.out


def test_check_calls_a_factory_and_unwraps_a_wrapped_app(tmp_path: Path) -> None:
    text = APP.replace("app = FastAPI()", "inner = FastAPI()").replace("(app)", "(inner)").replace("@app", "@inner")
    text += "\n\nclass Wrapped:\n    app = inner\n\n\ndef make():\n    return Wrapped()\n"
    ran = check(app_file(tmp_path, text), "main:make", "--factory", "--format", "json")
    assert (ran.code, levels(ran)["setup"]) == (0, "ok")


def test_check_without_an_app_checks_the_environment_only(tmp_path: Path) -> None:
    ran = check(tmp_path, "--format", "json", OTEL_TRACES_SAMPLER="always_off")
    assert ran.code == 0
    assert levels(ran)["sampler"] == "warn"
    assert "setup" not in levels(ran)


@pytest.mark.parametrize("text", [APP, "from fastapi import FastAPI\napp = FastAPI()\n"])
def test_check_shows_wrong_settings(tmp_path: Path, text: str) -> None:
    ran = check(app_file(tmp_path, text), "main:app", OTEL_FASTPERF_METRICS_PORT="web")
    assert ran.code == 1
    assert "bad   settings: otel_fastperf: 1 setting is wrong:" in ran.out
    assert "OTEL_FASTPERF_METRICS_PORT='web'" in ran.out


@pytest.mark.parametrize(
    ("target", "text", "says"),
    [
        ("main:app", "import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("main:app", "raise ValueError('first\\nsecond')\n", "ValueError: first second"),
        ("main:app", "import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("main:other", APP, "AttributeError"),
        ("other:app", APP, "run this in the directory from which the service is started"),
        ("main:slow", APP, "add --factory"),
        ("main:kept", APP, "main:kept is of type list, not a FastAPI app"),
        ("main", APP, "write MODULE:APP"),
        (":app", APP, "write MODULE:APP"),
    ],
)
def test_an_app_that_cannot_be_imported_is_an_error_of_one_line(
    tmp_path: Path, target: str, text: str, says: str
) -> None:
    ran = check(app_file(tmp_path, text), target)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_check_finds_the_module_that_uvicorn_would(tmp_path: Path) -> None:
    folder, other = tmp_path / "service", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (other / "main.py").write_text("raise ValueError('another main')\n")
    path = os.pathsep.join(map(str, (ROOT, other, folder)))
    # an installed command does not have the working directory first in sys.path
    ran = check(app_file(folder, APP), "main:app", PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert (ran.code, ran.err) == (0, "")


def test_the_error_for_an_app_names_the_likely_cause(tmp_path: Path) -> None:
    text = "from prometheus_client import Counter\nCounter('orders', 'Orders.')\n"
    ran = check(app_file(tmp_path, text), "main:app", PROMETHEUS_MULTIPROC_DIR=str(tmp_path / "nowhere"))
    assert ran.code == 2
    assert "main:app cannot be imported: FileNotFoundError" in ran.err
    assert ran.out.startswith("bad   multiprocess metrics: PROMETHEUS_MULTIPROC_DIR=")
