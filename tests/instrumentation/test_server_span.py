"""Under the `opentelemetry-instrument` agent, a request has one SERVER span, from the source that the setting names."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

OURS = "otel_fastperf"
CONTRIB = "opentelemetry.instrumentation.fastapi"

SERVICE = """
    import sys
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from otel_fastperf import setup_telemetry

    exporter = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    late = sys.argv[1:] == ["late"]
    app = FastAPI()

    @app.middleware("http")
    async def passing(request, call_next):
        return await call_next(request)

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        if not item_id:
            raise ValueError("no such item")
        return item_id

    def ask(path):
        exporter.clear()
        TestClient(app, raise_server_exceptions=False).get(path)
        return [span for span in exporter.get_finished_spans() if span.kind.name == "SERVER"]

    if late:
        ask("/items/1")  # builds the middleware chain
    telemetry = setup_telemetry(app)
    for path in ("/items/1", "/items/0"):
        for span in ask(path):
            exceptions = sum(event.name == "exception" for event in span.events)
            print(span.instrumentation_scope.name, span.name, exceptions, sep="|")
    print("described", *(line for line in telemetry.describe().splitlines() if "SERVER span" in line), sep="|")
    telemetry.shutdown()
    print("afterwards", *(span.instrumentation_scope.name for span in ask("/items/1")), sep="|")
"""


def under_the_agent(folder: Path, *arguments: str, **environment: str) -> list[list[str]]:
    """Run the service under the agent, and return the fields of each line that it prints."""
    script = folder / "service.py"
    script.write_text(textwrap.dedent(SERVICE))
    exporters = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
    # OpenTelemetry's own distro; ours is tested in tests/zero_code
    exporters |= {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, str(script), *arguments],
        env={**os.environ, **exporters, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("|") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("moment", ["early", "late"])
def test_the_agent_adds_no_second_span_to_ours(tmp_path: Path, moment: str) -> None:
    """The middleware chain may be built before or after set-up. On shutdown the agent's span comes back."""
    *spans, described, afterwards = under_the_agent(tmp_path, moment)
    assert spans == [[OURS, "GET /items/{item_id}", "0"], [OURS, "GET /items/{item_id}", "1"]]
    assert "own SERVER span (the opentelemetry-instrument agent's" in described[1]
    assert afterwards == ["afterwards", CONTRIB]


def test_contrib_s_span_stays_if_the_setting_says_so(tmp_path: Path) -> None:
    *spans, described, _ = under_the_agent(tmp_path, OTEL_FASTPERF_SERVER_SPAN="contrib")
    assert [scope for scope, *_ in spans] == [CONTRIB] * 2
    assert "inside the SERVER span of opentelemetry-instrumentation-fastapi" in described[1]
