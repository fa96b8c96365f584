"""Another service or system that answers slowly and takes most of a route.

A call is judged without the time in which a busy machine may have delayed its answer. How much that was is known only
within limits, so a peer that has not answered faster once, in a number of requests, is slow in any case.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.calls import Call
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ClientsSettings

if TYPE_CHECKING:
    from otel_fastperf.requests.route import Route

#: multiple of the threshold from which a finding is critical
_CRITICAL: Final = 10
#: requests of a route after which a peer that never answered faster is slow, whatever the machine did
_ALWAYS: Final = 8
#: routes and peers that are remembered
_MOST: Final = 512


class SlowDependencies:
    """The detector, which remembers the last requests of each route: one slow answer is no finding."""

    def __init__(self, settings: ClientsSettings, recurrence: Recurrence) -> None:
        self._settings = settings
        self._recurrence = recurrence
        #: seconds of the slowest answer in each of the last requests
        self._slowest: OrderedDict[tuple[Route, str], deque[float]] = OrderedDict()

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """Yield a finding for each peer that is slow for this request, and was for others of its route."""
        if record.scope["type"] == "websocket":
            return
        always = self._always_slow(record)
        by_peer = {peer: _whole(calls) if peer in always else calls for peer, calls in _by_peer(record)}
        slow = {peer: calls for peer, calls in by_peer.items() if self._is_slow(record, calls)}
        recurring = self._recurrence.recurring(record, slow)
        for peer, calls in slow.items():
            if peer in recurring:
                yield _finding(record, peer, calls, self._settings)

    def _always_slow(self, record: RequestRecord) -> frozenset[str]:
        """The peers of a request that have been slow in each of the last ones of its route, on any machine."""
        peers: dict[str, float] = {}
        for group in () if record.calls is None else tuple(record.calls.groups.values()):
            peers[group.facts.peer] = max(peers.get(group.facts.peer, 0.0), group.slowest_answer)
        always = set[str]()
        for peer, slowest in peers.items():
            key = record.route_key, peer
            if slowest < self._settings.slow_dependency and key not in self._slowest:
                continue
            seen = self._slowest.pop(key, None) or deque(maxlen=_ALWAYS)
            seen.append(slowest)
            # a peer that is fast is not remembered
            if max(seen) >= self._settings.slow_dependency:
                self._slowest[key] = seen
            if len(seen) == _ALWAYS and min(seen) >= self._settings.slow_dependency:
                always.add(peer)
        while len(self._slowest) > _MOST:
            self._slowest.popitem(last=False)
        return frozenset(always)

    def _is_slow(self, record: RequestRecord, calls: list[Call]) -> bool:
        slowest = max(call.own for call in calls)
        if slowest < self._settings.slow_dependency:
            return False
        return covered(calls) >= self._settings.slow_dependency_share * record.own_seconds


def _by_peer(record: RequestRecord) -> Iterator[tuple[str, list[Call]]]:
    """The long calls of a request by whom they called, without commands that wait for something to happen."""
    peers: dict[str, list[Call]] = {}
    for call in () if record.calls is None else tuple(record.calls.long):
        if not call.group.facts.waits:
            peers.setdefault(call.group.facts.peer, []).append(call)
    yield from peers.items()


def _whole(calls: list[Call]) -> list[Call]:
    """The calls as the clock saw them."""
    return [call._replace(own=call.ended - call.started) for call in calls]


def covered(calls: list[Call]) -> float:
    """Seconds during which at least one of the calls ran, and nothing else stood in its way."""
    total, until = 0.0, float("-inf")
    for call in sorted(calls, key=lambda call: call.started):
        total += max(call.ended - max(call.started, until), 0.0)
        until = max(until, call.ended)
    # what stopped this process meanwhile was not the peer's
    return max(total - sum(call.ended - call.started - call.own for call in calls), 0.0)


def _finding(record: RequestRecord, peer: str, calls: list[Call], settings: ClientsSettings) -> Finding:
    longest = max(calls, key=lambda call: call.own)
    slowest, seconds = longest.own, covered(calls)
    share = min(seconds / record.own_seconds, 1.0) if record.own_seconds > 0 else 1.0
    name, facts = longest.group.name, longest.group.facts
    failed = sum(call.failed for call in calls)
    failures = f" {failed} of {len(calls)} slow calls failed." if failed else ""
    return Finding(
        kind=Kind.SLOW_DEPENDENCY,
        severity=Severity.CRITICAL if slowest >= _CRITICAL * settings.slow_dependency else Severity.WARNING,
        subject=peer,
        message=f"{name!r} took {slowest:.3f} s; {peer} is {share:.0%} of the request.{failures}",
        remedy=_remedy(facts.cause),
        evidence={
            "seconds": seconds,
            "slowest": slowest,
            "share": share,
            "calls": len(calls),
            "failed": failed,
            "call": name,
            "server.address": peer,
        },
        call_site=longest.lines[0] if longest.lines else None,
        seconds=seconds,
    )


def _remedy(cause: int) -> str:
    if cause == Cause.CACHE:
        return "Look at the server's slow log, and for big values and commands that read whole collections."
    if cause == Cause.DB:
        return "Look at the statement's plan: an index, fewer rows, or a result that is kept for some seconds."
    if cause == Cause.MESSAGING:
        return "Send the message after the response: BackgroundTasks, or an outbox that a worker empties."
    return (
        "Keep the answer for as long as it may be old, make the call at the same time as others (asyncio.gather), or"
        " after the response (BackgroundTasks), and set a timeout that your caller can bear."
    )
