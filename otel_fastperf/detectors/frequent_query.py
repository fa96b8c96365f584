"""A statement below `slow_query` that takes most of the time of its route, request after request.

It is reported as `slow_query`. Nobody notices it once, and the route's users always. A single duration says little on a
busy machine, so it is judged by how long the statement takes at its best: by the lowest tenth of its durations.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from otel_fastperf.detectors.slow_query import finding_of
from otel_fastperf.findings import Finding
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings

#: requests of a route that are remembered, and that it takes
_REMEMBERED: Final = 40
_LEAST: Final = 12
#: routes that are remembered
_MOST_ROUTES: Final = 256
#: share of the durations that may be shorter than the threshold: answers from a cache, luck
_BEST: Final = 0.1


class _SeenRequest(NamedTuple):
    """What one request of a route spent on its longest statement."""

    seconds: float
    fingerprint: str = ""
    #: of one execution, and of all
    execution: float = 0.0
    statement: float = 0.0


class FrequentQueries:
    """The detector, which remembers the last requests of each route. Safe to call from any thread."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._routes: OrderedDict[tuple[str, str], deque[_SeenRequest]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, record: RequestRecord) -> Iterable[Finding]:
        """A finding for the statement that takes most of this request, and of the others of its route."""
        # nearly all requests end here: none of their statements took `frequent_query` seconds
        if not self._routes and not any(group.longest for group in tuple(record.statements.values())):
            return ()
        return self._judged(record)

    def _judged(self, record: RequestRecord) -> Iterator[Finding]:
        if record.scope["type"] == "websocket":
            return
        longest = max(tuple(record.statements.values()), key=lambda group: group.seconds, default=None)
        group = longest if longest is not None and self._is_long(longest) else None
        key = record.route_key
        if group is None and key not in self._routes:
            return
        # fast executions count too: the statement may be fast at its best
        seen = self._noted(key, _request(record, longest))
        if group is not None and (share := self._share(seen, group.query.fingerprint)):
            often = f", which is {share:.0%} of its route's time in the last {len(seen)} requests"
            yield finding_of(group, self._settings, seconds=group.seconds, often=often, share=share)

    def _is_long(self, group: StatementGroup) -> bool:
        # repeats are an `n_plus_one`, and what is slow by itself or waits for a lock has been reported
        few = group.count < self._settings.n_plus_one and not group.slow_count and not group.waited_for_lock
        return few and group.longest >= self._settings.frequent_query

    def _noted(self, key: tuple[str, str], request: _SeenRequest) -> list[_SeenRequest]:
        """Note a request of a route; the last ones of that route."""
        with self._lock:
            requests = self._routes.pop(key, None) or deque(maxlen=_REMEMBERED)
            requests.append(request)
            if any(seen.execution >= self._settings.frequent_query for seen in requests):
                self._routes[key] = requests
            if len(self._routes) > _MOST_ROUTES:
                self._routes.popitem(last=False)
            return list(requests)

    def _share(self, seen: list[_SeenRequest], fingerprint: str) -> float:
        """The statement's share of the route's time; 0 if it is none worth a finding."""
        durations = sorted(request.execution for request in seen if request.fingerprint == fingerprint)
        if len(seen) < _LEAST or len(durations) < len(seen) / 2:
            return 0.0
        if durations[int(_BEST * len(durations))] < self._settings.frequent_query:
            return 0.0
        statement = sum(request.statement for request in seen if request.fingerprint == fingerprint)
        total = sum(request.seconds for request in seen)
        share = statement / total if total > 0 else 0.0
        return min(share, 1.0) if share >= self._settings.frequent_query_share else 0.0


def _request(record: RequestRecord, group: StatementGroup | None) -> _SeenRequest:
    if group is None:
        return _SeenRequest(record.own_seconds)
    return _SeenRequest(record.own_seconds, group.query.fingerprint, group.seconds / group.count, group.seconds)
