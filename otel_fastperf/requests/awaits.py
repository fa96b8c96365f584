"""What slow requests await, and at which line, as samples of them tell: of one request, and of all those of a route.

Requests that are younger than `awaiting.after` are never sampled, and have no `Awaits`.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite

#: maximum number of different things that one request awaits, and those of one route; and of routes that are kept
MOST_OF_REQUEST: Final = 32
MOST_OF_ROUTE: Final = 64
MOST_ROUTES: Final = 512

NOTHING_AWAITED: Final[Mapping["Awaited", float]] = MappingProxyType({})


class Awaited(NamedTuple):
    """What a request awaits, or what it computes in a thread.

    Attributes:
        library: The package that the application calls, such as `httpx` or `asyncio`; `""` for the application's own
            code.
        function: The function of it, such as `AsyncClient.get` or `Lock.acquire`; `""` if it is unknown.
        call_site: The line of the application that calls it. None if no frame of the application was seen.
        computing: True if a thread computes, False if the request waits.
    """

    library: str
    function: str
    call_site: CallSite | None = None
    computing: bool = False

    @property
    def what(self) -> str:
        """`awaiting httpx AsyncClient.get`, `computing hashlib.pbkdf2_hmac`."""
        known = self.function if self.function.startswith(f"{self.library}.") else f"{self.library} {self.function}"
        return f"{'computing' if self.computing else 'awaiting'} {known.strip()}".strip()

    def __str__(self) -> str:
        """`awaiting httpx AsyncClient.get at shop/prices.py:14 in price`."""
        return self.what if self.call_site is None else f"{self.what} at {self.call_site}"


#: stands for what is beyond these numbers
OTHERS: Final = Awaited("", "")


class Awaits:
    """The samples of one request. Written by the thread of its event loop.

    A sample stands for the time in which the request was suspended as it is seen, and for the time around that: up to
    the middle between it and the sample before, and the one after.
    """

    __slots__ = ("_latest", "due", "sampled", "seconds", "threads")

    def __init__(self, since: float) -> None:
        """`since` is the time, by `time.perf_counter()`, from which on the first sample counts."""
        self.seconds: dict[Awaited, float] = {}
        #: time of the latest sample
        self.sampled: float = since
        #: when to take the next one
        self.due: float = since
        #: CPU seconds of the threads that worked for it at the latest sample, and its time, by thread
        self.threads: dict[int, tuple[float, float]] = {}
        self._latest: tuple[Awaited, ...] = ()

    def seen(self, awaited: tuple[Awaited, ...], at: float, until: float, since: float) -> None:
        """Add a sample; several branches share its time.

        Args:
            awaited: What was seen.
            at: When it was seen.
            until: What passed after this is unknown.
            since: When the request was suspended: it has awaited the same since then.
        """
        if self._latest:
            since = max(min(since, until), self.sampled)
            before = max(since - self.sampled, 0.0) / 2
            self._credit(self._latest, before)
        else:
            # also what it has awaited before the threshold
            since, before = min(since, self.sampled), 0.0
        self._credit(awaited, max(until - since, 0.0) + before)
        self.sampled, self._latest = at, awaited

    def end(self, passed: float) -> None:
        """Count the last `passed` seconds, from the latest sample to the end of the request."""
        self._credit(self._latest, max(passed, 0.0))
        self._latest = ()

    def _credit(self, awaited: tuple[Awaited, ...], seconds: float) -> None:
        for each in awaited:
            _add(self.seconds, each, seconds / len(awaited), MOST_OF_REQUEST)


class AwaitsOfRoutes:
    """What the slow requests of each route awaited. Safe to use from any thread."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], dict[Awaited, float]] = {}
        self._lock = threading.Lock()

    def add(self, method: str, route: str, awaited: Mapping[Awaited, float]) -> None:
        """Add what one request awaited, in seconds."""
        with self._lock:
            sums = self._routes.get((method, route))
            if sums is None:
                if len(self._routes) >= MOST_ROUTES:
                    return
                sums = self._routes[method, route] = {}
            for each, seconds in awaited.items():
                _add(sums, each, seconds, MOST_OF_ROUTE)

    def by_route(self) -> dict[tuple[str, str], dict[Awaited, float]]:
        """Seconds by method and route, most first. Of code that computes, the lines of one function are one."""
        with self._lock:
            routes = {route: dict(sums) for route, sums in self._routes.items()}
        return {route: dict(Counter(_by_function(sums)).most_common()) for route, sums in routes.items()}


def merged_awaits(
    workers: Iterable[Mapping[tuple[str, str], Mapping[Awaited, float]]],
) -> dict[tuple[str, str], dict[Awaited, float]]:
    """What `by_route` told in several processes, added up."""
    merged = AwaitsOfRoutes()
    for worker in workers:
        for (method, route), awaited in worker.items():
            merged.add(method, route, awaited)
    return merged.by_route()


def _add(sums: dict[Awaited, float], awaited: Awaited, seconds: float, most: int) -> None:
    key = awaited if awaited in sums or len(sums) < most else OTHERS
    sums[key] = sums.get(key, 0.0) + seconds


def _by_function(sums: Mapping[Awaited, float]) -> dict[Awaited, float]:
    """The same with one line, the one with the most seconds, for each function that computes, which moves on in it."""
    merged: dict[tuple[object, ...], tuple[Awaited, float]] = {}
    for each, seconds in sorted(sums.items(), key=lambda pair: -pair[1]):
        site = each.call_site
        key = each if site is None or not each.computing else (each[:2], site.file, site.function)
        first, so_far = merged.get(key, (each, 0.0))
        merged[key] = first, so_far + seconds
    return dict(merged.values())
