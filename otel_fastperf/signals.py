"""What every subject is given: where to put spans, where to put numbers, and where failures go."""

from dataclasses import dataclass

from opentelemetry.trace import Tracer

from otel_fastperf.guard import Guard
from otel_fastperf.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """The outlets of one `Telemetry`. Compared by identity: a request belongs to exactly one."""

    tracer: Tracer
    metrics: Metrics
    guard: Guard
