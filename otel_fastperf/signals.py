"""Shared by all parts: the outlets for spans, metrics, findings and failures, and the delays that hit all requests."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.trace import SpanContext, Tracer

from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.loop_beats import LoopBeats
from otel_fastperf.internals.redaction import ErrorDetail
from otel_fastperf.internals.start_up import StartUps
from otel_fastperf.internals.starvation import Starvation
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.awaits import AwaitsOfRoutes
from otel_fastperf.requests.in_flight import InFlight
from otel_fastperf.requests.locks import EndedTransactions
from otel_fastperf.requests.recent import RecentRequests
from otel_fastperf.requests.record import RequestRecord

if TYPE_CHECKING:
    from weakref import ref

#: pauses and blocks kept for the time budgets of running requests
_MOST_PAUSES: Final = 4096
_MOST_BLOCKS: Final = 256

#: seconds; what was lost in a shorter delay is not worth a look
_LONG_DELAY: Final = 0.01

#: a wait counts from that multiple of the time of the blocks before it on, since they made requests pile up
_BEYOND_BLOCKS: Final = 2

#: records a block that has just ended; returns False on the thread of another loop
CatchUp = Callable[[], bool]


class Block(NamedTuple):
    """The event loop was blocked from `start` to `end`, by `time.perf_counter()`.

    Attributes:
        owner_reference: Refers to the request whose code blocked it, without keeping it; None if no request is known.
        span: The span that reports the block, or else the owner's. None if it is not sampled.
    """

    start: float
    end: float
    owner_reference: "ref[RequestRecord] | None"
    span: SpanContext | None

    @property
    def owner(self) -> RequestRecord | None:
        """The request whose code blocked it; None if unknown, if no request did, and once nobody else keeps it."""
        return None if self.owner_reference is None else self.owner_reference()


class Delays:
    """Delays that hit every request: pauses of the garbage collector, blocks of the event loop, a busy machine.

    Monitors write them; a request reads them when it ends. They are deques because an append takes no lock.

    Attributes:
        pauses: `(start, end)` of collections by `time.perf_counter()`, oldest first.
        collecting_since: Start of the collection under way. Other threads may run before its end is noted.
        blocks: Oldest first.
        starvation: Time in which the machine did not run this process.
    """

    __slots__ = ("_beats", "_clocks", "_watchdogs", "blocks", "collecting_since", "pauses", "starvation")

    def __init__(self) -> None:
        self.pauses: deque[tuple[float, float]] = deque(maxlen=_MOST_PAUSES)
        self.collecting_since: float | None = None
        self.blocks: deque[Block] = deque(maxlen=_MOST_BLOCKS)
        self.starvation: Starvation = Starvation()
        self._watchdogs: tuple[CatchUp, ...] = ()
        #: by thread, since when its event loop has run what is ready
        self._clocks: dict[int, Callable[[], float]] = {}
        #: by thread, what is known of its event loop
        self._beats: dict[int, LoopBeats] = {}

    @contextmanager
    def timed_by(self, running_since: Callable[[], float]) -> Iterator[None]:
        """Know the clock of the loop that runs in this thread, a `run_clock`, until the context manager exits."""
        thread = threading.get_ident()
        self._clocks[thread] = running_since
        try:
            yield
        finally:
            self._clocks.pop(thread, None)

    def running_since(self, thread: int) -> float:
        """Since when a thread's event loop has run its current iteration; infinite if unknown.

        What runs now was ready then, by `time.perf_counter()`. Must be called on that thread.
        """
        clock = self._clocks.get(thread)
        return inf if clock is None else clock()

    @contextmanager
    def beaten_by(self, beats: LoopBeats) -> Iterator[None]:
        """Know the beats of the loop that runs in this thread until the context manager exits."""
        thread = threading.get_ident()
        self._beats[thread] = beats
        try:
            yield
        finally:
            self._beats.pop(thread, None)

    def answer_seconds(self, start: float, end: float) -> float:
        """At most so long did an answer take for which this thread's event loop waited; see `LoopBeats`.

        `end` is the present. Infinite on the thread of no loop, and for a loop of which nothing is known.
        """
        thread = threading.get_ident()
        beats = self._beats.get(thread)
        return inf if beats is None else beats.answer_seconds(start, end, max(end - self.running_since(thread), 0.0))

    @contextmanager
    def watched_by(self, catch_up: CatchUp) -> Iterator[None]:
        """Have `Delays.catch_up` call this until the context manager exits. There is one for each event loop."""
        self._watchdogs = (*self._watchdogs, catch_up)
        try:
            yield
        finally:
            self._watchdogs = tuple(each for each in self._watchdogs if each is not catch_up)

    def catch_up(self) -> None:
        """Record a block that has just ended and that no heartbeat has noticed yet. Must run on the loop's thread."""
        for watchdog in self._watchdogs:
            if watchdog():
                return

    def paused_seconds(self, start: float, end: float) -> float:
        """Seconds between `start` and `end` during which the garbage collector stopped the process."""
        return _covered(self._pauses_between(start, end), start, end)

    def pauses_until(self, now: float) -> tuple[tuple[float, float], ...]:
        """`pauses`, and the one that is under way or has just ended."""
        since, pauses = self.collecting_since, tuple(self.pauses)
        return pauses if since is None else (*pauses, (since, now))

    def blocked_seconds(self, start: float, end: float) -> float:
        """Seconds between `start` and `end` during which the event loop was blocked."""
        return _covered([(block.start, block.end) for block in tuple(self.blocks)], start, end)

    def own_seconds(self, start: float, end: float, *, on_loop: bool) -> float:
        """What a statement would have taken by itself that ran from `start` to `end`.

        That is without the time in which the collector ran, or the machine did not run the process, or, if its answer
        waits for the event loop, `on_loop`, that was blocked or did other things.
        """
        delays = self._pauses_between(start, end)
        if on_loop:
            delays += [(block.start, block.end) for block in tuple(self.blocks)]
        own = end - start - _covered(delays, start, end)
        own = max(own - self._starved_beside(delays, start, end), 0.0)
        return min(own, self.answer_seconds(start, end)) if on_loop else own

    def unexplained_seconds(self, start: float, end: float, seconds: float, *, on_loop: bool) -> float:
        """The part of a wait that neither blocks of the event loop nor a busy machine explain; 0 if blocks explain it.

        The wait took `seconds` between `start` and `end`. With `on_loop` it ends on the event loop, so it may have been
        over while the loop was blocked. Requests that piled up behind a block come all at once afterwards, and wait
        for each other for about as long as the block took.
        """
        recent = [
            block for block in tuple(self.blocks) if block.start < end and block.end + (block.end - block.start) > start
        ]
        own, blocks = seconds, [(block.start, block.end) for block in recent] if on_loop else []
        own -= _covered(blocks, start, end)
        if own <= _BEYOND_BLOCKS * sum(block.end - block.start for block in recent):
            return 0.0
        return max(own - self._starved_beside(blocks, start, end), 0.0)

    def _starved_beside(self, delays: list[tuple[float, float]], start: float, end: float) -> float:
        """Seconds without a processor between two times, outside of delays that have been taken off already.

        A busy machine makes these longer, and would be taken off twice.
        """
        starved = 0.0
        for began, ended in sorted(delay for delay in delays if delay[1] - delay[0] >= _LONG_DELAY):
            if start < began < end:
                starved += self.starvation.seconds(start, began)
            start = max(start, ended)
        return starved + (self.starvation.seconds(start, end) if start < end else 0.0)

    def _pauses_between(self, start: float, end: float) -> list[tuple[float, float]]:
        since = self.collecting_since
        # a thread that waited for the GIL goes on before the collecting one has recorded its pause
        pauses = [] if since is None else [(since, end)]
        # by number: a collection that begins here appends to it, which ends an iteration with an error
        for back in range(1, len(self.pauses) + 1):
            pause = self.pauses[-back]
            if pause[1] <= start:
                break
            pauses.append(pause)
        return pauses


def _covered(intervals: list[tuple[float, float]], start: float, end: float) -> float:
    """Seconds between `start` and `end` that at least one of the intervals covers."""
    covered = 0.0
    for began, ended in sorted(intervals):
        start = max(start, began)
        if min(ended, end) > start:
            covered += min(ended, end) - start
            start = ended
    return covered


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """The outlets of one `Telemetry`. Compared by identity: a request belongs to exactly one."""

    tracer: Tracer
    metrics: Metrics
    findings: Findings
    guard: Guard
    delays: Delays = field(default_factory=Delays)
    backlog: Backlog = field(default_factory=Backlog)
    in_flight: InFlight = field(default_factory=InFlight)
    awaits: AwaitsOfRoutes = field(default_factory=AwaitsOfRoutes)
    transactions: EndedTransactions = field(default_factory=EndedTransactions)
    recent: RecentRequests = field(default_factory=RecentRequests)
    start_ups: StartUps = field(default_factory=StartUps)
    #: how much of an exception is shown
    exceptions: ErrorDetail = "scrubbed"
