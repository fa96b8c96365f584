"""The time budgets of each route's last requests: what its slow requests would take without one of their segments."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Segment

#: requests that are kept of each route
_KEPT: Final = 64
_MOST_ROUTES: Final = 256

#: seconds by segment of one request
Segments: TypeAlias = Mapping[Segment, float]


class RecentRequests:
    """The budgets of the last requests by route. Safe to use from any thread."""

    def __init__(self) -> None:
        self._routes: dict[Route, deque[Segments]] = {}
        self._event_streams: set[Route] = set()
        #: of the routes beyond the limit: shared, never read
        self._others: deque[Segments] = deque(maxlen=1)
        self._lock = threading.Lock()

    def of(self, route: Route) -> deque[Segments]:
        """Where to append the budgets of a route."""
        with self._lock:
            if route not in self._routes and len(self._routes) >= _MOST_ROUTES:
                return self._others
            return self._routes.setdefault(route, deque(maxlen=_KEPT))

    def add_event_stream(self, route: Route) -> None:
        """The route answers with server-sent events, for as long as its client listens: its duration says nothing."""
        with self._lock:
            if len(self._event_streams) < _MOST_ROUTES:
                self._event_streams.add(route)

    @property
    def event_streams(self) -> frozenset[Route]:
        """The routes that answer with server-sent events."""
        with self._lock:
            return frozenset(self._event_streams)

    def by_route(self) -> dict[Route, Sequence[Segments]]:
        """A copy."""
        with self._lock:
            return {route: tuple(recent.copy()) for route, recent in self._routes.items()}
