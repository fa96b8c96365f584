"""What every subject is given: where to put spans, numbers and findings, and where failures go."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.trace import SpanContext, Tracer

from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord

#: collections and holds that are remembered, for the budgets of requests that run meanwhile
_MOST_PAUSES = 4096
_MOST_HOLDS = 256


class Hold(NamedTuple):
    """The event loop was held, from `start` to `end` by `time.perf_counter()`."""

    start: float
    end: float
    #: the request whose code held it; None when that is not known, or was no request
    owner: RequestRecord | None
    #: the span that tells of it, or else the owner's; None if that is not sampled
    span: SpanContext | None


@dataclass(slots=True)
class Obstacles:
    """What stands in the way of every request of the process: pauses of the garbage collector, holds of the loop.

    Written by the monitors, read when a request has ended. Deques: appending to one takes no lock.
    """

    #: `(start, end)` by `time.perf_counter()`, oldest first
    pauses: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_PAUSES))
    holds: deque[Hold] = field(default_factory=lambda: deque(maxlen=_MOST_HOLDS))
    #: note a hold that has just ended and that no heartbeat has seen yet. On the loop's thread; set by the monitor
    settle: Callable[[], None] = lambda: None

    def held(self, start: float, end: float) -> float:
        """Seconds between the two for which the event loop was held: whose turn it was had to wait that long."""
        overlaps = (min(hold.end, end) - max(hold.start, start) for hold in tuple(self.holds))
        return sum(overlap for overlap in overlaps if overlap > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """The outlets of one `Telemetry`. Compared by identity: a request belongs to exactly one."""

    tracer: Tracer
    metrics: Metrics
    findings: Findings
    guard: Guard
    obstacles: Obstacles = field(default_factory=Obstacles)
