"""Telemetry that is set up late delivers the last spans, or says at the start that it cannot."""

import signal
from pathlib import Path

import pytest

from tests.otlp import Receiver
from tests.serving import run_server

APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from otel_fastperf import setup_telemetry

@asynccontextmanager
async def lifespan(app):
    setup_telemetry(app)
    yield {"a": 1}
    print("the lifespan has ended", flush=True)

app = FastAPI(lifespan=lifespan)

@app.get("/items/{number}")
async def item(number: int) -> int:
    return number
"""
EARLY = APP.replace("    setup_telemetry(app)\n", "") + "\nsetup_telemetry(app)\n"
CLOCK = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_FASTPERF_LOOP_ENABLED": "false"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_set_up_inside_of_the_lifespan_the_last_spans_are_delivered(number: int, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(APP)
    with Receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **CLOCK}
        command = ["uvicorn", "late:app", "--port", "{port}", "--app-dir", str(tmp_path)]
        with run_server(command, log=tmp_path / "log", environment=environment) as server:
            for item in range(20):
                assert server.get(f"/items/{item}").status == 200
            server.stop(number)
            assert len(receiver.wait_for(20, timeout=5)) == 20
            assert "the lifespan has ended" in server.output
            assert "Traceback" not in server.output
            assert "may be lost" not in server.output


def test_without_a_lifespan_the_log_says_what_may_be_lost(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(EARLY)
    with Receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **CLOCK}
        command = ["uvicorn", "early:app", "--port", "{port}", "--app-dir", str(tmp_path), "--lifespan", "off"]
        with run_server(command, log=tmp_path / "log", environment=environment) as server:
            assert server.get("/items/1").status == 200
            assert server.get("/items/2").status == 200
            told = [line for line in server.output.splitlines() if "no lifespan runs" in line]
    assert len(told) == 1
    assert "Remedy" in told[0]
