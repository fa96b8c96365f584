"""Shared by all parts: the outlets for spans, metrics, findings and failures, and the delays that hit all requests."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from opentelemetry.trace import SpanContext, Tracer

from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord

#: pauses and blocks kept for the time budgets of running requests
_MOST_PAUSES: Final = 4096
_MOST_BLOCKS: Final = 256

#: records a block that has just ended; returns False on the thread of another loop
CatchUp = Callable[[], bool]


class Block(NamedTuple):
    """The event loop was blocked from `start` to `end`, by `time.perf_counter()`.

    Attributes:
        owner: The request whose code blocked it; None if unknown, or if no request did.
        span: The span that reports the block, or else the owner's. None if it is not sampled.
    """

    start: float
    end: float
    owner: RequestRecord | None
    span: SpanContext | None


class Delays:
    """Delays that hit every request of the process: pauses of the garbage collector, and blocks of the event loop.

    Monitors write them; a request reads them when it ends. They are deques because an append takes no lock.

    Attributes:
        pauses: `(start, end)` of collections by `time.perf_counter()`, oldest first.
        blocks: Oldest first.
    """

    __slots__ = ("_watchdogs", "blocks", "pauses")

    def __init__(self) -> None:
        self.pauses: deque[tuple[float, float]] = deque(maxlen=_MOST_PAUSES)
        self.blocks: deque[Block] = deque(maxlen=_MOST_BLOCKS)
        self._watchdogs: tuple[CatchUp, ...] = ()

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

    def blocked_seconds(self, start: float, end: float) -> float:
        """Seconds between `start` and `end` during which the event loop was blocked."""
        overlaps = (min(block.end, end) - max(block.start, start) for block in tuple(self.blocks))
        return sum(overlap for overlap in overlaps if overlap > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """The outlets of one `Telemetry`. Compared by identity: a request belongs to exactly one."""

    tracer: Tracer
    metrics: Metrics
    findings: Findings
    guard: Guard
    delays: Delays = field(default_factory=Delays)
    backlog: Backlog = field(default_factory=Backlog)
