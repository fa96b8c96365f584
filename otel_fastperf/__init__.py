"""Why is my FastAPI service slow? One call, `setup_telemetry(app)`, and it says so. See README.md."""

from otel_fastperf.errors import FastPerfError, ReportError, SettingsError, SetupError
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.logs import add_trace_context
from otel_fastperf.record import RequestRecord
from otel_fastperf.report import Report, RouteVerdict, WorkerVerdict
from otel_fastperf.settings import Settings
from otel_fastperf.telemetry import Telemetry, setup_telemetry

__all__ = [
    "CallSite",
    "FastPerfError",
    "Finding",
    "Kind",
    "Report",
    "ReportError",
    "RequestRecord",
    "RouteVerdict",
    "Settings",
    "SettingsError",
    "SetupError",
    "Severity",
    "Telemetry",
    "WorkerVerdict",
    "add_trace_context",
    "setup_telemetry",
]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("otel-fastperf")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
