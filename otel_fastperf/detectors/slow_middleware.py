"""A middleware takes a large share of each request for itself."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import Middleware
from otel_fastperf.settings import MiddlewareSettings

#: requests of a route, one after the other, that have to show it: one alone may have waited for a loop that was busy
REPEATS: Final = 3


class SelfTime(NamedTuple):
    """What one request spent in a middleware, and in all; seconds."""

    itself: float
    request: float

    def is_slow(self, settings: MiddlewareSettings) -> bool:
        """True when it is over both thresholds."""
        return self.itself >= settings.slow_seconds and self.itself >= settings.slow_share * self.request


def detect_slow_middleware(
    middleware: Middleware, recent: Sequence[SelfTime], settings: MiddlewareSettings
) -> Iterator[Finding]:
    """A finding when the middleware was slow in each of the last `REPEATS` of a route's requests, newest last."""
    last = recent[-REPEATS:]
    if len(last) < REPEATS or not all(each.is_slow(settings) for each in last):
        return
    itself, request = last[-1]
    share = itself / request
    base_http = middleware.kind == "base_http"
    fix = (
        "do it once and not for each request, or only in the routes that need it, as a dependency;"
        f" middleware that rejects requests belongs outside of {middleware.name}"
    )
    yield Finding(
        kind=Kind.SLOW_MIDDLEWARE,
        severity=Severity.WARNING,
        subject=middleware.name,
        message=(
            f"{middleware.name}{' (BaseHTTPMiddleware)' if base_http else ''} took {itself:.3f} s for itself,"
            f" {share:.0%} of the request."
        ),
        remedy=f"{fix}; as pure ASGI it would also save the task that BaseHTTPMiddleware starts" if base_http else fix,
        evidence={"self_seconds": itself, "share": share, "base_http_middleware": base_http},
        call_site=middleware.call_site,
        seconds=itself,
    )
