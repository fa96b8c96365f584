"""Spans of finished requests are delivered when the server is told to stop; a dead collector holds nothing up."""

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
#: no span is exported before the end by the clock: what arrives was flushed
SLOW_CLOCK = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A collector over HTTP."""
    with Receiver() as running:
        yield running


def ask(server: Command, number: int) -> None:
    """So many requests, each answered."""
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
def test_every_finished_request_is_delivered_at_the_end(
    command: list[str], number: int, receiver: Receiver, tmp_path: Path
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **SLOW_CLOCK}
    with run_server(command, log=tmp_path / "log", environment=environment) as server:
        # a worker of gunicorn's that is still starting does not hear a SIGINT, and is waited for until its time is up
        workers = 2 if "2" in command else 1
        wait_until(lambda: server.output.count("Application startup complete") == workers, what="every worker is up")
        ask(server, 21)
        server.stop(number)
        spans = receiver.wait_for(21, timeout=5)
        assert [span.name for span in spans] == ["GET /items/{item_id}"] * 21
        assert len({span.span_id for span in spans}) == 21
        assert "Traceback" not in server.output


def test_grpc_delivers_too(tmp_path: Path) -> None:
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
def test_a_collector_that_is_down_costs_one_warning_no_request_and_two_seconds(
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
            time.sleep(1.5)  # the first export is under way
            ask(server, 50)
            seconds = server.stop()
            output = server.output
        # the budget is 2 s; the rest is the interpreter's and a loaded machine's
        assert seconds < 4.0, output
        warnings = [
            line for line in output.splitlines() if "WARNING" in line or "otel_fastperf" in line or "Transient" in line
        ]
        assert len([line for line in output.splitlines() if "Transient" in line or "Traceback" in line]) == 0, output
        assert len(warnings) <= 2, output


def test_a_worker_that_is_killed_takes_no_other_worker_s_spans_with_it(receiver: Receiver, tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with run_server(SERVERS["gunicorn --preload -w 2"], log=tmp_path / "log", environment=environment) as server:
        ask(server, 20)
        receiver.wait_for(20)
        before = workers_of(server)
        assert len(before) == 2
        # one after the other, since all requests so far may have gone to the same one
        for number, killed in enumerate(before, 1):
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda gone=before[:number]: len(set(workers_of(server)) - {*gone}) == 2, what="a new worker")
        ask(server, 20)
        server.stop()
        spans = receiver.wait_for(40, timeout=5)
    assert len({span.span_id for span in spans}) == 40
    assert len({span.resource["service.instance.id"] for span in spans}) >= 2


def test_without_an_endpoint_nothing_is_sent_and_nothing_is_said(tmp_path: Path) -> None:
    with run_server(SERVERS["uvicorn"], log=tmp_path / "log") as server:
        ask(server, 5)
        time.sleep(1.5)
        assert server.stop() < 4
        assert "otel" not in server.output.lower()


def test_lost_spans_are_counted_by_reason_on_metrics(tmp_path: Path) -> None:
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


def test_the_access_log_of_uvicorn_carries_the_trace_of_its_request(receiver: Receiver, tmp_path: Path) -> None:
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
