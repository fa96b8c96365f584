"""What the remedy of each finding would save, over all requests: its own route's, and those that wait because of it.

Pure. A remedy takes parts of segments away: that of a blocked loop takes the time that all routes wait for the loop,
but not the time of the call, which is then awaited; that of an N+1 takes all but one of the statements.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from otel_fastperf.findings import Finding, Kind
from otel_fastperf.report.histograms import Samples
from otel_fastperf.requests.recent import Segments
from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Segment

#: seconds by segment, by route
RouteSegments: TypeAlias = Mapping[tuple[str, ...], Mapping[str, float]]

#: kinds whose victims wait for the event loop
_BLOCKS: Final = frozenset({Kind.BLOCKING_CALL, Kind.SYNC_DB_ON_LOOP})
#: kinds that several routes suffer from for one reason, and the segment in which they do
_SHARED: Final[Mapping[str, Segment]] = {
    Kind.THREADPOOL_WAIT: Segment.THREADPOOL_WAIT,
    Kind.GC_PAUSE: Segment.GC,
}
#: kinds that say nothing of the time of requests
_WITHOUT_TIME: Final = frozenset({Kind.MEMORY_GROWTH, Kind.CACHE_INEFFICIENT})
_ON_DATABASE: Final = frozenset({Kind.SLOW_QUERY, Kind.N_PLUS_ONE, Kind.LARGE_RESULT})
#: share of the waits for a pool from which routes without a finding of it have them
_LEAST_OF_OTHERS: Final = 0.05
#: savings below this share of all requests' time do not decide the order
_LEAST_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Saving:
    """What the remedy of one finding would save.

    Attributes:
        finding: The finding.
        shares: The share of a segment that would be saved, by route and segment.
        by_route: Seconds by route.
    """

    finding: Finding
    shares: Mapping[tuple[str, ...], Mapping[str, float]] = field(default_factory=dict)
    by_route: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Over all routes."""
        return sum(self.by_route.values())

    def p95(self, route: tuple[str, ...], recent: Sequence[Segments]) -> tuple[float, float] | None:
        """The 95th percentile of a route's last requests, and what it would be; None if none is known."""
        if not recent:
            return None
        shares = self.shares.get(route, {})
        after = (sum(spent * (1 - shares.get(name, 0.0)) for name, spent in request.items()) for request in recent)
        return _p95(sum(request.values()) for request in recent), _p95(after)


def savings(
    known: Samples,
    findings: Sequence[Finding],
    segments: RouteSegments,
    consequences: Mapping[str, Sequence[Finding]] = MappingProxyType({}),
) -> list[Saving]:
    """The saving of each finding, most first; those that save next to nothing keep their order behind them.

    `consequences`, by the fingerprint of their cause, are saved with it.
    """
    following = [each for those in consequences.values() for each in those]
    shares = _Shares(known, [*findings, *following], segments)
    found = [
        _together(finding, map(shares.of, (finding, *consequences.get(finding.fingerprint, ()))), segments)
        for finding in findings
    ]
    least = _LEAST_SHARE * sum(sum(those.values()) for those in segments.values())
    return sorted(found, key=lambda saving: -saving.seconds if saving.seconds >= least else 0.0)


def _together(finding: Finding, parts: Iterable[RouteSegments], segments: RouteSegments) -> Saving:
    """What a finding and its consequences save: of no segment more than all of it."""
    shares: dict[tuple[str, ...], dict[str, float]] = {}
    for part in parts:
        for route, those in part.items():
            kept = shares.setdefault(route, {})
            for name, share in those.items():
                kept[name] = min(kept.get(name, 0.0) + share, 1.0)
    by_route = {
        route: sum(share * segments.get(route, {}).get(name, 0.0) for name, share in those.items())
        for route, those in shares.items()
    }
    return Saving(finding, shares, {route: seconds for route, seconds in by_route.items() if seconds})


class _Shares:
    """The shares of segments that the remedies of findings save, by route."""

    def __init__(self, known: Samples, findings: Sequence[Finding], segments: RouteSegments) -> None:
        self._segments = segments
        self._share_of = _shares_of_causes(known, findings)
        #: seconds for which each pool was waited for
        self._waits = known.total("db_client_connection_wait_time_seconds_sum", ("db_client_connection_pool_name",), {})
        #: the routes that are known to wait for a pool
        self._waiting: dict[str, set[tuple[str, ...]]] = {}
        for finding in findings:
            if finding.kind == Kind.POOL_WAIT:
                self._waiting.setdefault(finding.subject, set()).add(Route(finding.method, finding.route))

    def of(self, finding: Finding) -> RouteSegments:
        """Those of one finding."""
        if finding.kind in _WITHOUT_TIME:
            return {}
        if finding.kind == Kind.POOL_WAIT:
            return self._of_pool(finding.subject)
        delayed = Segment.LOOP_WAIT if finding.kind in _BLOCKS else _SHARED.get(finding.kind)
        if delayed is None:
            route = Route(finding.method, finding.route)
            return {route: _own_shares(finding, self._segments.get(route, {}))}
        share = self._share_of(finding)
        return {route: {delayed.value: share} for route, those in self._segments.items() if those.get(delayed)}

    def _of_pool(self, pool: str) -> RouteSegments:
        """Whichever finding of a pool is followed, all stop to wait: those that are known, and what is left of others.

        Routes wait for connections of several pools, and only a pool's total is known.
        """
        waits = {
            route: those[Segment.POOL_WAIT] for route, those in self._segments.items() if Segment.POOL_WAIT in those
        }
        known = {route: seconds for route, seconds in waits.items() if route in self._waiting.get(pool, ())}
        total, of_known = self._waits.get((pool,), sum(waits.values())), sum(known.values())
        shares = dict.fromkeys(known, min(total / of_known, 1.0) if of_known else 0.0)
        others = sum(waits.values()) - of_known
        if others and total - of_known > _LEAST_OF_OTHERS * total:
            shares |= dict.fromkeys(waits.keys() - known.keys(), min((total - of_known) / others, 1.0))
        return {route: {Segment.POOL_WAIT.value: share} for route, share in shares.items() if waits[route]}


def _shares_of_causes(known: Samples, findings: Sequence[Finding]) -> Callable[[Finding], float]:
    """For a finding, its share of the time for which requests waited in one segment: in proportion to its seconds.

    What blocked the loop without being a finding has a share, too. All that is found of threads has one remedy.
    """
    blocked = known.total("fastperf_event_loop_blocked_seconds_sum", ("cause",), {})
    all_blocked = sum(seconds for (cause,), seconds in blocked.items() if cause != "gc")
    paused = sum(known.total("fastperf_gc_pause_seconds_sum", (), {}).values())
    totals: dict[str, float] = {}
    for finding in findings:
        cause = _cause(finding)
        totals[cause] = totals.get(cause, 0.0) + finding.seconds
    totals["block"] = max(totals.get("block", 0.0), all_blocked)
    totals[Kind.GC_PAUSE] = max(totals.get(Kind.GC_PAUSE, 0.0), paused)

    def share_of(finding: Finding) -> float:
        if finding.kind == Kind.THREADPOOL_WAIT:
            return 1.0
        total = totals[_cause(finding)]
        return finding.seconds / total if total else 0.0

    return share_of


def _cause(finding: Finding) -> str:
    return "block" if finding.kind in _BLOCKS else finding.kind


def _own_shares(finding: Finding, segments: Mapping[str, float]) -> dict[str, float]:
    """The segments of its own route that a remedy cuts, and by which share."""
    saved = finding.seconds * _avoidable(finding)
    names = list(_segments_of(finding, segments))
    total = sum(segments[name] for name in names)
    return dict.fromkeys(names, min(saved / total, 1.0)) if total else {}


def _avoidable(finding: Finding) -> float:
    """The share of a finding's seconds that its remedy saves: one of the repeated statements or calls is left."""
    repeats = finding.evidence.get("repeats")
    if finding.kind == Kind.N_PLUS_ONE and isinstance(repeats, int) and repeats > 1:
        return 1 - 1 / repeats
    return 1.0


def _segments_of(finding: Finding, segments: Mapping[str, float]) -> Iterator[str]:
    if finding.kind in _ON_DATABASE and "db.query.summary" in finding.evidence and segments.get(Segment.DB):
        yield Segment.DB
    elif finding.kind == Kind.SLOW_MIDDLEWARE and segments.get(Segment.MIDDLEWARE):
        yield from (name for name in (Segment.MIDDLEWARE, Segment.MIDDLEWARE_AWAIT) if name in segments)
    else:
        yield from segments


def _p95(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[min(round(0.95 * len(ordered)), len(ordered) - 1)]
