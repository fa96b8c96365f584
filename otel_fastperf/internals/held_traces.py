"""Traces that the sampler drops, held until it is known whether they are worth exporting.

The decision of a sampler is made at the start of a request and travels to the services that it calls. What turns out
to be notable later can only be kept by the process itself: spans of the request wait here, bounded in number and in
bytes, until the request has ended.
"""

import threading
from collections.abc import Callable, Collection
from typing import Final

from otel_fastperf.internals.forks import on_fork

#: most spans of one request that wait, and their bytes; the bytes of all requests
_MOST_SPANS: Final = 200
_MOST_BYTES: Final = 2**18
_MOST_BYTES_OF_ALL: Final = 2**24

#: Passes on what waited.
Release = Callable[[], object]
#: Called with why a trace is kept, and the number of its spans for which there was no room.
Kept = Callable[[str, int], object]


class HeldTraces:
    """The held traces of one telemetry."""

    def __init__(self, reasons: Collection[str], slow: float, kept: Kept) -> None:
        """`reasons`: of `error`, `finding` and `slow`, those for which a trace is kept. `slow`: seconds."""
        self._reasons: Final = frozenset(reasons)
        self._slow: Final = slow
        self._kept: Final = kept
        self._lock = threading.Lock()
        self._weight = 0
        on_fork(after_in_child=self._forget)

    def hold(self) -> "HeldTrace":
        """Hold the trace of a request that begins."""
        return HeldTrace(self)

    def reason(self, *, is_error: bool, seconds: float) -> str:
        """Why a request is to be kept; "" if it is not."""
        if is_error and "error" in self._reasons:
            return "error"
        return "slow" if seconds >= self._slow and "slow" in self._reasons else ""

    def knows(self, reason: str) -> bool:
        """Whether a trace is kept for it."""
        return reason in self._reasons

    def put(self, trace: "HeldTrace", release: Release, weight: int) -> bool:
        """Have `release` called if the trace is kept; False if that is decided already."""
        with self._lock:
            if not trace.is_open:
                return False
            heavy = trace.weight + weight > _MOST_BYTES or self._weight + weight > _MOST_BYTES_OF_ALL
            if heavy or len(trace.waiting) >= _MOST_SPANS:
                trace.lost += 1
            else:
                trace.waiting.append(release)
                trace.weight += weight
                self._weight += weight
            return True

    def end(self, trace: "HeldTrace", reason: str) -> None:
        """Pass on what waits, or forget it if there is no reason to keep it."""
        with self._lock:
            if not trace.is_open:
                return
            trace.is_open, trace.kept_for = False, reason
            waiting, trace.waiting = trace.waiting, []
            self._weight -= trace.weight
        if reason:
            self._kept(reason, trace.lost)
            for release in waiting:
                release()

    def _forget(self) -> None:
        """In the child: the requests are the parent's, and another thread may have had the lock."""
        self._lock = threading.Lock()
        self._weight = 0


class HeldTrace:
    """What waits of one request. Safe to use from any thread.

    Attributes:
        is_open: Whether it is still to be decided.
        kept_for: Why it is kept; "" as long as it is not.
        is_over: The request has ended; what starts from then on in a trace that is not kept has no parent.
        waiting, weight: What waits, and its bytes.
        lost: The number of spans for which there was no room.
    """

    __slots__ = ("_all", "is_open", "is_over", "kept_for", "lost", "waiting", "weight")

    def __init__(self, of_all: HeldTraces) -> None:
        self._all = of_all
        self.is_open: bool = True
        self.is_over: bool = False
        self.kept_for: str = ""
        self.waiting: list[Release] = []
        self.weight: int = 0
        self.lost: int = 0

    @property
    def is_dropped(self) -> bool:
        """Whether it is not kept."""
        return not (self.is_open or self.kept_for)

    def put(self, release: Release, weight: int) -> None:
        """Have `release` called once the trace is kept, which may be now. It keeps this number of bytes."""
        if not self._all.put(self, release, weight) and self.kept_for:
            release()

    def keep_for(self, reason: str) -> None:
        """Keep it from now on, if this is one of the reasons."""
        if self._all.knows(reason):
            self._all.end(self, reason)

    def decide(self, *, is_error: bool, seconds: float) -> None:
        """Keep it or not: the request has ended."""
        self._all.end(self, self._all.reason(is_error=is_error, seconds=seconds))

    def drop(self) -> None:
        """Forget it, unless it is kept."""
        self._all.end(self, "")
