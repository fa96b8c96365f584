"""Under `opentelemetry-instrument` with our distro, an app that does not call `setup_telemetry` is observed once."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from otel_fastperf.zero_code.distro import FastperfConfigurator, FastperfDistro
from tests.serving import ROOT

SHOP = """
import os
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

engine = create_engine("sqlite://")
app = FastAPI()

@app.get("/items")
def items() -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))

with TestClient(app) as client:
    assert client.get("/items").status_code == 200
    assert "http_server_request_duration_seconds_count" in client.get("/metrics").text
    telemetry = app.state.otel_fastperf_telemetry
    for span in telemetry.spans():
        print(span.kind.name, span.instrumentation_scope.name.partition(".")[0], span.name)
"""


@pytest.mark.parametrize(
    "chosen",
    [("fastperf", "fastperf"), ("fastperf", "configurator"), ("distro", "fastperf")],
    ids=["ours", "our distro", "our configurator"],
)
def test_the_agent_observes_an_app_once(tmp_path: Path, chosen: tuple[str, str]) -> None:
    script = tmp_path / "shop.py"
    script.write_text(SHOP)
    exporters = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
    if chosen[1] == "fastperf":
        exporters["OTEL_TRACES_EXPORTER"] = ""  # or else OpenTelemetry's distro chooses otlp
    done = subprocess.run(
        [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, str(script)],
        env={
            **os.environ,
            **exporters,
            "PYTHONPATH": str(ROOT),
            "OTEL_PYTHON_DISTRO": chosen[0],
            "OTEL_PYTHON_CONFIGURATOR": chosen[1],
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    spans = done.stdout.splitlines()
    assert sorted(spans) == ["CLIENT otel_fastperf SELECT", "SERVER otel_fastperf GET /items"]


OURS = {"OTEL_PYTHON_DISTRO": "fastperf", "OTEL_PYTHON_CONFIGURATOR": "fastperf"}
ALONE = """
from opentelemetry import trace
print(type(trace.get_tracer_provider()).__module__)
"""


@pytest.mark.parametrize(
    ("chosen", "provider"),
    [({}, "opentelemetry.sdk.trace"), (OURS, "opentelemetry.trace")],
    ids=["nobody chooses", "ours is chosen"],
)
def test_beside_another_distro_ours_has_to_be_chosen(chosen: dict[str, str], provider: str) -> None:
    """Else installing this package would end what the agent exports of processes without an app."""
    exporters = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
    done = subprocess.run(
        [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, "-c", ALONE],
        env={**os.environ, **exporters, "PYTHONPATH": str(ROOT), **chosen},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == provider


def test_the_entry_points_name_what_the_agent_expects() -> None:
    (distro,) = entry_points(group="opentelemetry_distro", name="fastperf")
    (configurator,) = entry_points(group="opentelemetry_configurator", name="fastperf")
    assert (distro.load(), configurator.load()) == (FastperfDistro, FastperfConfigurator)
