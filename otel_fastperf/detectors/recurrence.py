"""Tells what recurs in the requests of a route from what happened once."""

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Hashable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_fastperf.requests.record import RequestRecord

if TYPE_CHECKING:
    from otel_fastperf.requests.route import Route

#: requests of a route that are remembered
_REMEMBERED: Final = 8
#: how many of them must show it, one after the other: requests that run at the same time may all meet an empty cache
_LEAST: Final = 3
#: share of them that must show it
_LEAST_SHARE: Final = 0.5
#: routes, and subjects of a route, that are remembered
_MOST_ROUTES: Final = 512
_MOST_SUBJECTS: Final = 16


class _RouteRequest(NamedTuple):
    """Whether one request showed a subject, and when it ran, by `time.perf_counter()`."""

    shown: bool
    started: float
    ended: float


class Recurrence:
    """What the last requests of each route have shown. Safe to call from any thread."""

    def __init__(self) -> None:
        self._routes: OrderedDict[Route, dict[Hashable, deque[_RouteRequest]]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def is_used(self) -> bool:
        """Whether a request has shown something lately."""
        return bool(self._routes)

    def recurring(self, record: RequestRecord, shown: Collection[Hashable]) -> frozenset[Hashable]:
        """Note what a request has shown; those of them that recur on its route."""
        key = record.route_key
        if not shown and key not in self._routes:
            return frozenset()
        with self._lock:
            subjects = self._routes.pop(key, {})
            self._routes[key] = subjects
            if len(self._routes) > _MOST_ROUTES:
                self._routes.popitem(last=False)
            for subject in shown:
                if subject not in subjects and len(subjects) < _MOST_SUBJECTS:
                    subjects[subject] = deque(maxlen=_REMEMBERED)
            for subject, requests in tuple(subjects.items()):
                requests.append(_RouteRequest(subject in shown, record.started, record.ended))
                if not any(seen.shown for seen in requests):
                    del subjects[subject]
            if not subjects:
                del self._routes[key]
            return frozenset(subject for subject in shown if subject in subjects and _recurs(subjects[subject]))


def _recurs(requests: deque[_RouteRequest]) -> bool:
    share = sum(seen.shown for seen in requests) / len(requests)
    return share >= _LEAST_SHARE and sum(1 for _ in _one_after_the_other(requests)) >= _LEAST


def _one_after_the_other(requests: deque[_RouteRequest]) -> Iterator[_RouteRequest]:
    """Requests that show it, each of which arrived after the one before had ended."""
    until = float("-inf")
    for seen in sorted((each for each in requests if each.shown), key=lambda each: each.ended):
        if seen.started >= until:
            until = seen.ended
            yield seen
