"""A middleware takes a large share of a request for itself."""

from collections.abc import Iterator

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.record import Middleware, RequestRecord
from otel_fastperf.settings import MiddlewareSettings


def detect_slow_middleware(record: RequestRecord, settings: MiddlewareSettings) -> Iterator[Finding]:
    """A finding for each middleware whose self time is over both thresholds."""
    for middleware, seconds in record.self_times():
        if seconds >= settings.slow_seconds and seconds >= settings.slow_share * record.seconds:
            yield _finding(middleware, seconds, record)


def _finding(middleware: Middleware, seconds: float, record: RequestRecord) -> Finding:
    share = seconds / record.seconds
    base_http = middleware.kind == "base_http"
    fix = (
        "do it once and not for each request, or only in the routes that need it, as a dependency;"
        f" middleware that rejects requests belongs outside of {middleware.name}"
    )
    return Finding(
        kind=Kind.SLOW_MIDDLEWARE,
        severity=Severity.WARNING,
        subject=middleware.name,
        message=(
            f"{middleware.name}{' (BaseHTTPMiddleware)' if base_http else ''} took {seconds:.3f} s for itself,"
            f" {share:.0%} of the request."
        ),
        remedy=f"{fix}; a pure ASGI middleware also saves the task that BaseHTTPMiddleware starts"
        if base_http
        else fix,
        evidence={"self_seconds": seconds, "share": share, "base_http_middleware": base_http},
        call_site=middleware.call_site,
        seconds=seconds,
    )
