"""What to fix first, in one sentence, and what that would give back."""

from collections.abc import Mapping, Sequence
from typing import Final

from otel_fastperf.findings import Finding, Kind
from otel_fastperf.report.formatting import seconds
from otel_fastperf.report.savings import Saving
from otel_fastperf.requests.recent import Segments
from otel_fastperf.requests.route import Route

#: share of all requests' time below which nothing is worth to be fixed first, and of that saving to name a route
_WORTH: Final = 0.01
#: share by which a 95th percentile must fall to be named
_FALL: Final = 0.1
#: share of a route's time from which another one's fault explains it
_EXPLAINS: Final = 0.2


def advice(
    savings: Sequence[Saving], recent: Mapping[Route, Sequence[Segments]], *, total: float, uptime: float
) -> str:
    """What to fix first; "" if nothing is worth it. `total`: seconds of all requests."""
    # what was seen once may be the start of the process
    first = next((saving for saving in savings if saving.finding.count > 1), None)
    if first is None or not first.seconds or first.seconds < _WORTH * total:
        return ""
    finding, routes = first.finding, sum(spent >= _WORTH * first.seconds for spent in first.by_route.values())
    blocks = ""
    if finding.kind in {Kind.BLOCKING_CALL, Kind.SYNC_DB_ON_LOOP}:
        blocks = f"it blocks the event loop for {seconds(finding.seconds)} of {seconds(uptime)}, and "
    said = (
        f"Fix {named(finding)} first: {blocks or 'it '}costs requests {seconds(first.seconds)},"
        f" {first.seconds / total:.0%} of the time of all, in {_routes(first, routes)}"
    )
    return "; ".join((said, *_fall(first, recent)))


def named(finding: Finding) -> str:
    """`shop/rates.py:34 (blocking_call)`, or what it is about if no line is known."""
    if finding.call_site is not None:
        return f"{str(finding.call_site).partition(' in ')[0]} ({finding.kind})"
    return f"{finding.kind} of {finding.subject}"


def culprit(savings: Sequence[Saving], route: tuple[str, ...], spent: float) -> Finding | None:
    """The finding of another route that makes this one slow; None if there is none."""
    return next(
        (
            saving.finding
            for saving in savings
            if (saving.finding.method, saving.finding.route) != route
            and saving.by_route.get(route, 0.0) >= _EXPLAINS * spent
        ),
        None,
    )


def _routes(saving: Saving, number: int) -> str:
    return f"{number} routes" if number > 1 else str(Route(*_gains_most(saving)))


def _gains_most(saving: Saving) -> tuple[str, ...]:
    return max(saving.by_route, key=lambda route: saving.by_route[route])


def _fall(saving: Saving, recent: Mapping[Route, Sequence[Segments]]) -> list[str]:
    """The route that gains most: `p95 of GET /products would fall from 310 ms to about 80 ms`."""
    route = _gains_most(saving)
    found = saving.p95(route, recent.get(Route(*route), ()))
    if found is None or found[1] > (1 - _FALL) * found[0]:
        return []
    before, after = found
    return [f"p95 of {Route(*route)} would fall from {seconds(before)} to about {seconds(after)}"]
