"""The self time of a middleware is a large share of each request."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import Middleware
from otel_fastperf.settings import MiddlewareSettings

#: consecutive requests of a route that must show it: a single one may have waited for a busy event loop
REPEATS: Final = 3


class SelfTime(NamedTuple):
    """Seconds that one request spent in a middleware itself, and in total."""

    itself: float
    request: float

    def is_slow(self, settings: MiddlewareSettings) -> bool:
        """True if it reaches both thresholds."""
        return self.itself >= settings.slow_seconds and self.itself >= settings.slow_share * self.request


def detect_slow_middleware(
    middleware: Middleware, recent: Sequence[SelfTime], settings: MiddlewareSettings
) -> Iterator[Finding]:
    """A finding if the middleware was slow in each of the last `REPEATS` requests of a route; newest last."""
    last = recent[-REPEATS:]
    if len(last) < REPEATS or not all(each.is_slow(settings) for each in last):
        return
    itself, request = last[-1]
    share = itself / request
    base_http = middleware.kind == "base_http"
    remedy = (
        "Do the work once instead of for each request, or only in the routes that need it, as a dependency."
        f" Place middleware that rejects requests outside of {middleware.name}."
    )
    if base_http:
        remedy += " As pure ASGI middleware it would also save the task that BaseHTTPMiddleware starts."
    yield Finding(
        kind=Kind.SLOW_MIDDLEWARE,
        severity=Severity.WARNING,
        subject=middleware.name,
        message=(
            f"{middleware.name}{' (BaseHTTPMiddleware)' if base_http else ''} took {itself:.3f} s for itself,"
            f" {share:.0%} of the request."
        ),
        remedy=remedy,
        evidence={"self_seconds": itself, "share": share, "base_http_middleware": base_http},
        call_site=middleware.call_site,
        seconds=itself,
    )
