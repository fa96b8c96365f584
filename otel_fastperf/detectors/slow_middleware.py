"""The self time of a middleware is a large share of each request."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.internals.frames import may_be_application
from otel_fastperf.requests.record import Middleware
from otel_fastperf.settings import MiddlewareSettings

#: consecutive requests of a route that must show it: a single one may have waited for a busy event loop
REPEATS: Final = 3
#: Starlette's middleware that compresses, and others of that name
_COMPRESSING: Final = "GZipMiddleware"


class SelfTime(NamedTuple):
    """Seconds that one request spent in a middleware itself, and in total."""

    itself: float
    request: float

    def is_slow(self, settings: MiddlewareSettings) -> bool:
        """True if it reaches both thresholds."""
        return self.itself >= settings.slow_seconds and self.itself >= settings.slow_share * self.request


def _line_of(middleware: Middleware) -> CallSite | None:
    """Its line; none for a middleware of the framework, which nobody can change."""
    site = middleware.call_site
    return site if site is not None and may_be_application(site.file) else None


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
    if middleware.name.startswith(_COMPRESSING):
        remedy = "Let the proxy in front of the app compress, or lower `compresslevel`; page or stream large responses."
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
        call_site=_line_of(middleware),
        seconds=itself,
    )
