"""`otel-fastperf run`: apps that do not call `setup_telemetry` are observed, under real servers."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from otel_fastperf.cli.main import ERROR, main
from otel_fastperf.cli.run import STARTUP, ended, environment, found
from tests.serving import ROOT, Command, run_server, wait_until

UVICORN = ["uvicorn", "tests.zero_code.shop:app", "--port", "{port}"]
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn --factory": ["uvicorn", "--factory", "tests.zero_code.shop:create_app", "--port", "{port}"],
    "uvicorn --lifespan off": [*UVICORN, "--lifespan", "off"],
    "uvicorn --reload": [*UVICORN, "--reload", "--reload-dir", "tests/zero_code"],
    "uvicorn --workers": [*UVICORN, "--workers", "2"],
    "python -m uvicorn": [Path(sys.executable).name, "-m", *UVICORN],
    "fastapi": ["fastapi", "run", "tests/zero_code/shop.py", "--port", "{port}"],
    "gunicorn": [
        *("gunicorn", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}"),
        "tests.zero_code.shop:app",
    ],
    "granian": ["granian", "--interface", "asgi", "--port", "{port}", "tests.zero_code.shop:app"],
    "hypercorn": ["hypercorn", "-b", "127.0.0.1:{port}", "tests.zero_code.shop:app"],
}


def counted(server: Command) -> dict[str, float]:
    """Requests by route."""
    lines = re.findall(r'_duration_seconds_count{.*http_route="([^"]+)".*} (\S+)', server.get("/metrics").text)
    return {route: float(number) for route, number in lines}


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_the_app_of_every_server_is_observed(command: list[str], tmp_path: Path) -> None:
    module = command[0] if command[0] in {"gunicorn", "granian", "hypercorn"} else "uvicorn"
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    variables = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with run_server(["otel_fastperf", "run", *command], log=tmp_path / "log", environment=variables) as server:
        for item in range(3):
            assert server.get(f"/items/{item}").status == 200
        assert server.get("/mounted/inner").status == 200
        wait_until(
            lambda: counted(server) == {"/items/{item_id}": 3, "/mounted/inner": 1}, what="each request counts once"
        )


def test_an_app_that_sets_itself_up_is_not_set_up_again(tmp_path: Path) -> None:
    command = ["otel_fastperf", "run", "uvicorn", "tests.service:app", "--port", "{port}"]
    with run_server(command, log=tmp_path / "log") as server:
        assert server.get("/items/1").status == 200
        assert counted(server) == {"/items/{item_id}": 1}
        assert "called again" not in server.output


def in_a_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code as `otel-fastperf run python -c` does."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment({**os.environ, "PYTHONPATH": str(ROOT), **variables}),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )


CALL = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from fastapi.testclient import TestClient
from otel_fastperf import Settings, setup_telemetry

@asynccontextmanager
async def lifespan(app):
    with setup_telemetry(app, settings=Settings(service_name="by its code")) as telemetry:
        app.state.telemetry = telemetry
        yield

app = FastAPI(lifespan=lifespan)
app.get("/")(lambda: None)
with TestClient(app) as client:
    assert client.get("/").status_code == 200
    assert not app.state.telemetry.is_automatic
    print([span.resource.attributes["service.name"] for span in app.state.telemetry.spans()])
"""


def test_what_the_code_sets_up_in_its_lifespan_counts() -> None:
    done = in_a_process(CALL)
    assert done.stdout == "['by its code']\n"
    assert "called again" not in done.stderr


WRONG = """
from fastapi import FastAPI
from fastapi.testclient import TestClient

app = FastAPI()
app.get("/")(lambda: None)
with TestClient(app) as client:
    print(client.get("/").status_code, client.get("/metrics").status_code)
"""


def test_an_app_that_cannot_be_set_up_runs_unobserved_and_the_log_says_why() -> None:
    done = in_a_process(WRONG, OTEL_FASTPERF_DATABASE_SLOW_QUERY="-1")
    assert done.stdout == "200 404\n"
    assert done.stderr.count("otel_fastperf: the app is not observed:") == 1
    assert "OTEL_FASTPERF_DATABASE_SLOW_QUERY" in done.stderr


def test_a_process_without_an_app_imports_nothing() -> None:
    done = in_a_process("import sys; print({'fastapi', 'starlette', 'sqlalchemy', 'opentelemetry'} & set(sys.modules))")
    assert done.stdout == "set()\n"


def test_the_environment_s_own_sitecustomize_is_imported_too(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.of_the_environment = True\n")
    done = in_a_process(
        "import sitecustomize; print(of_the_environment, sitecustomize.__file__)",
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    assert done.stdout == f"True {tmp_path / 'sitecustomize.py'}\n"


def test_an_interpreter_without_the_package_is_told_of(tmp_path: Path) -> None:
    base = Path(getattr(sys, "_base_executable", sys.executable))
    if base == Path(sys.executable):
        pytest.skip("the tests run outside of a virtual environment")
    variables = environment({**os.environ, "PYTHONPATH": ""})
    command = [str(base), "-c", "print('runs')"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "runs\n"
    assert f"otel-fastperf run: {base} (Python 3.{sys.version_info.minor}) cannot import otel_fastperf" in done.stderr
    assert f"Remedy: {base} -m pip install otel-fastperf" in done.stderr


def test_the_command_of_this_environment_comes_before_others() -> None:
    assert found(Path(sys.executable).name) == sys.executable
    assert found("no-such-command-anywhere") is None


def test_the_path_of_startup_is_added_once() -> None:
    once = environment({"PYTHONPATH": "/srv/shop"})
    assert once == {"PYTHONPATH": f"{STARTUP}{os.pathsep}/srv/shop"}
    assert environment(once) == once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "run needs a command. Remedy: pass what starts the service"),
        (["run", "no-such-command-anywhere"], "there is no command 'no-such-command-anywhere'. Remedy"),
    ],
)
def test_a_command_that_cannot_be_run_says_so(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ERROR
    assert f"otel-fastperf: {message}" in capsys.readouterr().err


def test_wrong_settings_end_it_before_the_server_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_DATABASE_SLOW_QUERY", "-1")
    assert main(["run", sys.executable, "-c", ""]) == ERROR
    assert "OTEL_FASTPERF_DATABASE_SLOW_QUERY" in capsys.readouterr().err


def test_where_a_command_cannot_take_our_place_its_exit_code_is_passed_on() -> None:
    assert ended([sys.executable, "-c", "raise SystemExit(3)"], os.environ) == 3
