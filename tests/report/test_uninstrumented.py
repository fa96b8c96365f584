"""A report names client libraries whose calls have no spans, and what to install: shown by a real service."""

import tomllib
from pathlib import Path

import pytest

from otel_fastperf.cli.main import main
from otel_fastperf.instrumentation import clients
from otel_fastperf.report.html import to_html
from otel_fastperf.report.model import Report
from tests.serving import ROOT, run_server

APP = """\
import grpc
from fastapi import FastAPI
from otel_fastperf import setup_telemetry

app = FastAPI()
telemetry = setup_telemetry(app)
channel = grpc.insecure_channel
"""
SAID = "The calls of grpc have no spans: pip install opentelemetry-instrumentation-grpc"


@pytest.mark.parametrize("disabled", ["", "grpc"])
def test_doctor_names_a_library_that_is_used_without_instrumentation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], disabled: str
) -> None:
    (tmp_path / "calls.py").write_text(APP)
    command = ["uvicorn", "calls:app", "--port", "{port}", "--app-dir", str(tmp_path), "--log-level", "error"]
    environment = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled} if disabled else {}
    with run_server(command, log=tmp_path / "log", environment=environment) as service:
        page = service.get("/debug/fastperf").text
        assert main(["doctor", service.url]) == 0
    report, doctor = Report.from_json(page), capsys.readouterr().out
    for said in (doctor, to_html(report)):
        assert (SAID in " ".join(said.split())) == (not disabled)
    assert report.uninstrumented == ({} if disabled else {"grpc": "opentelemetry-instrumentation-grpc"})


def test_libraries_with_an_extra_are_those_of_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() - {"stack"} == clients._EXTRAS
    for library in clients._EXTRAS:
        (requirement,) = extras[library]
        assert requirement.startswith(f"opentelemetry-instrumentation-{clients._LIBRARIES[library]}>=")
