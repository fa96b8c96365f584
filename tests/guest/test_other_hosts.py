"""Daphne, which runs no lifespan, and Mangum, which runs one for each event of AWS Lambda or none."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.otlp import Receiver
from tests.serving import ROOT, run_server

COUNT = r"^http_server_request_duration_seconds_count{.*} (\S+)$"
FAILURES = r"^fastperf_telemetry_errors_total.* (?!0\.0$)\S+$"
#: no span is exported by the clock
SLOW_CLOCK = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_FASTPERF_LOOP_BLOCKED": "0.5"}


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"{package} is not installed: `make test-matrix ENVS=wirings` has it"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@needs("daphne")
def test_daphne(receiver: Receiver, tmp_path: Path) -> None:
    command = ["daphne", "-p", "{port}", "tests.service:app"]
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **SLOW_CLOCK}
    with run_server(command, log=tmp_path / "log", environment=environment) as server:
        assert [server.get(f"/items/{number}").status for number in range(20)] == [200] * 20
        page = server.get("/metrics").text
        assert server.get("/debug/fastperf").status == 200
        server.stop()
        assert not re.search("WARNING|Traceback", server.output)
    assert re.findall(COUNT, page, re.MULTILINE) == ["20.0"]
    assert re.findall(FAILURES, page, re.MULTILINE) == []
    assert [span.name for span in receiver.spans] == ["GET /items/{item_id}"] * 20


@needs("mangum")
@pytest.mark.parametrize("lifespan", ["auto", "off"])
def test_mangum(lifespan: str, receiver: Receiver) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.guest.lambda_function", lifespan],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRICS_EXPORTER": "otlp",
            **SLOW_CLOCK,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answers"] == ["0", "1", "2"]
    assert re.findall(COUNT, told["page"], re.MULTILINE) == ["3.0"]
    assert re.findall(FAILURES, told["page"], re.MULTILINE) == []
    # between two events nothing runs, which is no block of the event loop
    assert "blocking_call" not in told["findings"]
    assert [span.name for span in receiver.spans] == ["GET /items/{item_id}"] * 3
    # with the three events, and the scrape
    assert len(receiver.metrics) >= 4
    assert "Traceback" not in done.stderr
