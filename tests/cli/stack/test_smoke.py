"""`otel-fastperf stack smoke` against a stand-in for the whole stack; tests/deploy runs it on the real one."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otel_fastperf.cli.main import main
from otel_fastperf.cli.stack.files import Answers, Manifest, write_file
from tests.serving import free_port

PORTS = ("COLLECTOR_HTTP_PORT", "JAEGER_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT", "LOKI_PORT")


@dataclass
class StandIn:
    """Answers like a healthy stack, and keeps the trace that it gets."""

    targets: list[dict[str, Any]] = field(default_factory=list)
    trace: bytes = b""
    has_logs: bool = False
    record: bytes = b""

    def answer(self, path: str) -> bytes:
        if path.startswith("/api/v1/targets"):
            return json.dumps({"data": {"activeTargets": self.targets}}).encode()
        if path.startswith("/api/v3/traces/"):
            return self.trace
        if path.startswith("/loki/api/v1/query_range?"):
            return json.dumps({"data": {"result": [{}] if self.record else []}}).encode()
        return b'{"database": "ok"}'

    def take(self, path: str, body: bytes) -> int:
        if path == "/v1/logs":
            self.record = body
            return 200 if self.has_logs else 404
        self.trace = body
        return 200


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(stand_in.answer(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self._answer(b"{}", stand_in.take(self.path, body))

        def _answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        for name in PORTS:
            monkeypatch.setenv(name, str(server.server_port))
        stand_in.targets.append(target("jaeger:8888", pool="jaeger"))
        yield stand_in
        server.shutdown()
        thread.join()


def target(address: str, *, job: str = "jaeger", pool: str = "app", error: str | None = None) -> dict[str, Any]:
    """A target as Prometheus's API shows it."""
    return {
        "scrapePool": pool,
        "labels": {"job": job, "instance": address},
        "scrapeUrl": f"http://{address}/metrics",
        "health": "up" if error is None else "down",
        "lastError": error or "",
    }


def init(folder: Path, **answers: Any) -> Path:
    """A folder that `stack init` was run in, as far as smoke reads it."""
    write_file(
        folder / ".fastperf-stack.json", Manifest(version="1", answers=Answers(**answers), files={}).to_json().encode()
    )
    return folder


def smoke(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> tuple[int, str]:
    """The exit code, and the line about apps."""
    code = main(["stack", "smoke", str(folder), "--wait", "0", *options])
    return code, next(line for line in capsys.readouterr().out.splitlines() if " Apps " in line)


def test_a_log_record_is_found_by_the_id_of_its_trace(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.has_logs = True
    assert main(["stack", "smoke", str(tmp_path), "--wait", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [said] = [line for line in lines if " Logs " in line]
    assert said.startswith("ok      Logs          found by its trace id at http://127.0.0.1:")
    [record] = json.loads(stack.record)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    [span] = json.loads(stack.trace)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert record["traceId"] == span["traceId"]


def test_without_a_log_store_a_note_says_how_to_get_one(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not stack.has_logs
    assert main(["stack", "smoke", str(tmp_path), "--wait", "0"]) == 0
    assert (
        "note    Logs          no log store, so log records are refused with 404. Remedy, if you want one:"
        " compose.logs.yml\n" in capsys.readouterr().out
    )


REFUSED = 'Get "http://host.docker.internal:8000/metrics": dial tcp 172.17.0.1:8000: connect: connection refused'


def test_the_service_that_init_was_told_must_be_scraped(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, service="shop")
    stack.targets.append(target("host.docker.internal:8000", job="shop", error=REFUSED))
    code, line = smoke(capsys, tmp_path)
    assert (code, line[:8]) == (1, "FAILED  ")
    assert line.endswith(
        f"shop is not scraped: http://host.docker.internal:8000/metrics ({REFUSED})."
        " Remedy: start the app so that containers can reach it (uvicorn --host 0.0.0.0 --port 8000)"
    )
    stack.targets[-1] = target("host.docker.internal:8000", job="shop")
    assert smoke(capsys, tmp_path) == (0, "ok      Apps          Prometheus scrapes shop")


def test_every_instance_of_the_service_must_be_scraped(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.targets += [target("a:1", job="shop"), target("b:1", job="shop", error=REFUSED)]
    assert smoke(capsys, init(tmp_path, service="shop"))[0] == 1


def test_a_service_that_is_no_target_is_a_failure_that_names_the_others(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.targets.append(target("a:1", job="store"))
    code, line = smoke(capsys, init(tmp_path, service="shop"))
    assert code == 1
    assert line.endswith(
        "shop is no target of Prometheus, but store."
        " Remedy: list its address in deploy/prometheus/targets/app.yml, under `job: shop`"
    )


@pytest.mark.parametrize(
    ("address", "error", "cure"),
    [
        ("shop:8000", "dial tcp: lookup shop on 127.0.0.11:53: no such host", "to the network mine_default"),
        ("shop:8000", "dial tcp: lookup shop on 127.0.0.11:53: server misbehaving", "to the network mine_default"),
        ("shop:8000", "connect: connection refused", "uvicorn --host 0.0.0.0 --port 8000"),
        ("shop:8000", "context deadline exceeded", "look into the app's log"),
        ("host.docker.internal:8000", "context deadline exceeded", "through the firewall of this machine to port 8000"),
        ("host.docker.internal:8000", "connect: no route to host", "through the firewall of this machine to port 8000"),
        ("shop:8000", "server returned HTTP status 404 Not Found", "setup_telemetry(app)"),
        ("shop:8000", 'received unsupported Content-Type "text/html"', "setup_telemetry(app)"),
        ("shop:8000", "server returned HTTP status 401 Unauthorized", "`authorization` of the job `app`"),
        ("shop:8000", "server returned HTTP status 500 Internal Server Error", "look into the app's log"),
        ("shop:8000", "", "uvicorn --host 0.0.0.0 --port 8000"),
    ],
)
def test_the_remedy_follows_from_prometheus_s_reason(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, error: str, cure: str
) -> None:
    stack.targets.append(target(address, job="shop", error=error))
    code, line = smoke(capsys, init(tmp_path, service="shop", project="mine"))
    assert (code, cure in line.partition("Remedy: ")[2]) == (1, True), line


@pytest.mark.parametrize("answers", [None, {}])
def test_a_service_that_nobody_named_is_a_note(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: dict[str, Any] | None
) -> None:
    """In a checkout, or after `stack init` without options, the app may come later."""
    if answers is not None:
        init(tmp_path, **answers)
    stack.targets.append(target("host.docker.internal:8000", job="my-service", error=REFUSED))
    code, line = smoke(capsys, tmp_path)
    assert (code, line[:8]) == (0, "note    ")
    assert "(uvicorn --host 0.0.0.0 --port 8000)" in line


def test_options_take_precedence_over_what_init_was_told(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path, service="shop")
    stack.targets += [target("a:1", job="shop", error=REFUSED), target("b:1", job="store")]
    assert smoke(capsys, tmp_path)[0] == 1
    assert smoke(capsys, tmp_path, "--app", "store")[0] == 0
    assert smoke(capsys, tmp_path, "--stack-only")[0] == 0


def test_commands_in_remedies_work_outside_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in PORTS:
        monkeypatch.setenv(name, str(free_port()))
    (tmp_path / "my stack").mkdir()
    for folder, compose in ((tmp_path / "my stack", f"docker compose --project-directory '{tmp_path}/my stack'"),
                            (Path(), "docker compose")):  # fmt: skip
        main(["stack", "smoke", str(folder), "--wait", "0"])
        assert f"Remedy: `{compose} ps`, then `{compose} logs jaeger`" in capsys.readouterr().out


def test_a_folder_that_does_not_exist_is_an_error_at_once(
    stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise it would check another stack, at the usual ports."""
    assert main(["stack", "smoke", str(tmp_path / "typo")]) == 1
    shown = capsys.readouterr()
    assert (shown.out, f"DIR={tmp_path}/typo: must be the stack's folder" in shown.err) == ("", True)


def test_a_damaged_manifest_is_an_error(stack: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".fastperf-stack.json").write_text("{")
    assert main(["stack", "smoke", str(tmp_path), "--wait", "0"]) == 1
    assert "Remedy: move it away" in capsys.readouterr().err
