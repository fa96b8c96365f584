"""Why is my FastAPI service slow? One call, `setup_telemetry(app)`, and it says so. See README.md.

Names are imported when they are first used: the pytest plugin is part of every test run where this package is
installed, and most of those need neither FastAPI nor OpenTelemetry.

PYTEST_DONT_REWRITE: nothing here is a test, and under `otel-fastperf run pytest` the package is there before pytest,
which would warn of that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otel_fastperf.errors import AllocationsError, FastPerfError, ReportError, SettingsError, SetupError
    from otel_fastperf.findings import CallSite, Finding, Kind, Severity
    from otel_fastperf.findings_outlet import Detector
    from otel_fastperf.instrumentation.server_hooks import RequestLabel, ServerRequestHook, ServerResponseHook
    from otel_fastperf.logs import add_trace_context
    from otel_fastperf.memory.allocations import AllocationReport
    from otel_fastperf.report.model import Report, RouteVerdict, WorkerVerdict
    from otel_fastperf.requests.view import RequestView, StatementView
    from otel_fastperf.settings import Settings
    from otel_fastperf.telemetry import Telemetry, setup_telemetry

    __version__: str

__all__ = [
    "AllocationReport",
    "AllocationsError",
    "CallSite",
    "Detector",
    "FastPerfError",
    "Finding",
    "Kind",
    "Report",
    "ReportError",
    "RequestLabel",
    "RequestView",
    "RouteVerdict",
    "ServerRequestHook",
    "ServerResponseHook",
    "Settings",
    "SettingsError",
    "SetupError",
    "Severity",
    "StatementView",
    "Telemetry",
    "WorkerVerdict",
    "add_trace_context",
    "setup_telemetry",
]

_HOMES: Final = {
    "AllocationReport": "memory.allocations",
    "AllocationsError": "errors",
    "CallSite": "findings",
    "Detector": "findings_outlet",
    "FastPerfError": "errors",
    "Finding": "findings",
    "Kind": "findings",
    "Report": "report.model",
    "ReportError": "errors",
    "RequestLabel": "instrumentation.server_hooks",
    "RequestView": "requests.view",
    "StatementView": "requests.view",
    "RouteVerdict": "report.model",
    "ServerRequestHook": "instrumentation.server_hooks",
    "ServerResponseHook": "instrumentation.server_hooks",
    "Settings": "settings",
    "SettingsError": "errors",
    "SetupError": "errors",
    "Severity": "findings",
    "Telemetry": "telemetry",
    "WorkerVerdict": "report.model",
    "add_trace_context": "logs",
    "setup_telemetry": "telemetry",
}


if not TYPE_CHECKING:  # a checker that sees it takes every name for one of ours

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            value = globals()[name] = getattr(import_module(f"otel_fastperf.{_HOMES[name]}"), name)
            return value
        if name == "__version__":
            from importlib.metadata import version

            return version("otel-fastperf")
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
