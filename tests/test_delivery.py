"""Spans of finished requests are delivered when the server stops; a dead collector delays nothing."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.otlp import Receiver, hanging, unavailable
from tests.serving import Command, free_port, run_server, wait_until

SERVERS = {
    "uvicorn": ["uvicorn", "tests.service:app", "--port", "{port}"],
    "uvicorn --workers 2": ["uvicorn", "tests.service:app", "--port", "{port}", "--workers", "2"],
    "fastapi run": ["fastapi", "run", "tests/service.py", "--port", "{port}"],
    "gunicorn": ["gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", "tests.service:app"],
    "gunicorn --preload -w 2": [
        "gunicorn",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "--preload",
        "-w",
        "2",
        "-b",
        "127.0.0.1:{port}",
        "tests.service:app",
    ],
}
#: the schedule exports nothing during the test, so spans that arrive were flushed at the end
SLOW_CLOCK = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
# A busy machine makes spans of its own: "event loop blocked".
NO_BLOCKS = {"OTEL_FASTPERF_LOOP_ENABLED": "false"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A collector over HTTP."""
    with Receiver() as running:
        yield running


def ask(server: Command, number: int) -> None:
    """Send `number` requests, and check that each succeeds."""
    for item in range(number):
        assert server.get(f"/items/{item}").status == 200


def workers_of(server: Command) -> list[int]:
    """The process ids of the server's children."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell a process's children")
    return [int(pid) for pid in children.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_every_finished_request_is_delivered_when_the_server_stops(
    command: list[str], number: int, receiver: Receiver, tmp_path: Path
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **SLOW_CLOCK, **NO_BLOCKS}
    with run_server(command, log=tmp_path / "log", environment=environment) as server:
        # a gunicorn worker that is still starting misses the SIGINT, and its master waits for it until the time-out
        workers = 2 if "2" in command else 1
        wait_until(lambda: server.output.count("Application startup complete") == workers, what="every worker is up")
        ask(server, 21)
        server.stop(number)
        spans = receiver.wait_for(21, timeout=5)
        assert [span.name for span in spans] == ["GET /items/{item_id}"] * 21
        assert len({span.span_id for span in spans}) == 21
        assert "Traceback" not in server.output


def test_finished_requests_are_delivered_over_grpc(tmp_path: Path) -> None:
    with Receiver("grpc") as receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            **SLOW_CLOCK,
        }
        with run_server(SERVERS["uvicorn"], log=tmp_path / "log", environment=environment) as server:
            ask(server, 21)
            server.stop()
            assert len(receiver.wait_for(21, timeout=5)) == 21
            assert "Traceback" not in server.output


@pytest.mark.parametrize("collector", ["refuses", "hangs", "answers 503"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_dead_collector_fails_no_request_and_delays_the_stop_by_two_seconds_at_most(
    collector: str, protocol: str, tmp_path: Path
) -> None:
    with Receiver(protocol) as receiver:  # type: ignore[arg-type]
        if collector == "refuses":
            receiver.stop()
        else:
            receiver.answer = hanging() if collector == "hangs" else unavailable()
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with run_server(SERVERS["uvicorn"], log=tmp_path / "log", environment=environment) as server:
            ask(server, 50)
            time.sleep(1.5)  # the first export has started
            ask(server, 50)
            seconds = server.stop()
            output = server.output
        # the budget is 2 s; the interpreter and a loaded machine need the rest
        assert seconds < 4.0, output
        warnings = [
            line for line in output.splitlines() if "WARNING" in line or "otel_fastperf" in line or "Transient" in line
        ]
        assert len([line for line in output.splitlines() if "Transient" in line or "Traceback" in line]) == 0, output
        assert len(warnings) <= 2, output


def test_killing_a_worker_loses_no_spans_of_the_others(receiver: Receiver, tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with run_server(SERVERS["gunicorn --preload -w 2"], log=tmp_path / "log", environment=environment) as server:
        ask(server, 20)
        receiver.wait_for(20)
        before = workers_of(server)
        assert len(before) == 2
        # kill both in turn: one of them may have served all requests so far
        for number, killed in enumerate(before, 1):
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda gone=before[:number]: len(set(workers_of(server)) - {*gone}) == 2, what="a new worker")
        ask(server, 20)
        server.stop()
        spans = receiver.wait_for(40, timeout=5)
    assert len({span.span_id for span in spans}) == 40
    assert len({span.resource["service.instance.id"] for span in spans}) >= 2


def test_without_an_endpoint_nothing_is_sent_or_logged(tmp_path: Path) -> None:
    with run_server(SERVERS["uvicorn"], log=tmp_path / "log") as server:
        ask(server, 5)
        time.sleep(1.5)
        assert server.stop() < 4
        assert "otel" not in server.output.lower()


def test_lost_spans_are_counted_by_reason(tmp_path: Path) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_MAX_QUEUE_SIZE": "10",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5",
    }
    with run_server(SERVERS["uvicorn"], log=tmp_path / "log", environment=environment) as server:
        ask(server, 40)

        def dropped() -> bool:
            return 'fastperf_spans_total{outcome="dropped_queue_full"}' in server.get("/metrics").text

        wait_until(dropped, what="drops are counted")
        page = dict(
            line.rsplit(" ", 1)
            for line in server.get("/metrics").text.splitlines()
            if line.startswith("fastperf_spans")
        )
        lost = sum(float(value) for name, value in page.items() if "dropped" in name)
        assert lost + float(page["fastperf_spans_queued"]) == 40


def test_uvicorn_s_access_log_contains_the_trace_id_of_the_request(receiver: Receiver, tmp_path: Path) -> None:
    config = {
        "version": 1,
        "formatters": {"plain": {"format": "%(name)s %(message)s trace=%(trace_id)s route=%(route)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "loggers": {"uvicorn.access": {"handlers": ["out"], "level": "INFO"}},
    }
    (tmp_path / "logging.json").write_text(json.dumps(config))
    command = [*SERVERS["uvicorn"], "--log-config", str(tmp_path / "logging.json")]
    with run_server(
        command, log=tmp_path / "log", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **SLOW_CLOCK}
    ) as server:
        ask(server, 1)
        server.stop()
        (span,) = receiver.wait_for(1, timeout=5)
        (line,) = [
            line for line in server.output.splitlines() if line.startswith("uvicorn.access") and "/items/0" in line
        ]
    assert line.endswith(f"trace={span.trace_id} route=/items/{{item_id}}")
