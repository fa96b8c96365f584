"""`slow_middleware`: the self time is large in seconds and in share, in each of the last requests of a route."""

import pytest
from starlette.middleware import gzip

from otel_fastperf.detectors.slow_middleware import SelfTime, detect_slow_middleware
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.requests.record import Middleware
from otel_fastperf.settings import MiddlewareSettings

SIGNER = Middleware("Signer", "base_http", CallSite("/srv/shop/signing.py", 12, "Signer.dispatch"))
SLOW = SelfTime(0.05, 0.1)


def detect(*recent: SelfTime, middleware: Middleware = SIGNER) -> list[Finding]:
    return list(detect_slow_middleware(middleware, recent, MiddlewareSettings()))


def test_the_finding_has_line_share_and_remedy() -> None:
    (finding,) = detect(SLOW, SLOW, SLOW)
    assert finding.subject == "Signer"
    assert finding.message == "Signer (BaseHTTPMiddleware) took 0.050 s for itself, 50% of the request."
    assert finding.call_site == SIGNER.call_site
    assert "as a dependency" in finding.remedy
    assert "pure ASGI" in finding.remedy
    assert finding.seconds == 0.05


def test_the_remedy_for_pure_asgi_middleware_does_not_suggest_pure_asgi() -> None:
    (finding,) = detect(SLOW, SLOW, SLOW, middleware=SIGNER._replace(kind="asgi"))
    assert "pure ASGI" not in finding.remedy


def test_a_middleware_of_the_framework_has_no_line_and_compression_a_remedy_of_its_own() -> None:
    site = CallSite(gzip.__file__, 25, "GZipMiddleware.__call__")
    (finding,) = detect(SLOW, SLOW, SLOW, middleware=Middleware("GZipMiddleware", "asgi", site))
    assert finding.call_site is None
    assert "compresslevel" in finding.remedy


@pytest.mark.parametrize(
    "recent",
    [
        (),
        (SLOW, SLOW),
        (SLOW, SLOW, SelfTime(0.001, 0.1)),
        (SLOW, SelfTime(0.05, 5.0), SLOW),
        (SelfTime(0.009, 0.01),) * 3,
        (SelfTime(0.02, 0.1),) * 3,
    ],
    ids=["none", "too few", "the last was quick", "a small share", "few milliseconds", "a fifth"],
)
def test_quick_or_rarely_slow_middleware_is_not_reported(recent: tuple[SelfTime, ...]) -> None:
    assert detect(*recent) == []


def test_only_the_last_requests_count() -> None:
    assert detect(SelfTime(0.001, 0.1), SLOW, SLOW, SLOW)
