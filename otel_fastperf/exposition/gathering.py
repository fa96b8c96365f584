"""What all workers of the service have measured, as far as they can be asked."""

import struct
from collections.abc import Callable, Iterable
from typing import Final

from otel_fastperf.exposition.merging import Sum
from otel_fastperf.exposition.rendering import Renderer
from otel_fastperf.exposition.series import MetricSeries, read
from otel_fastperf.internals.breath import Breath
from otel_fastperf.internals.guard import Guard
from otel_fastperf.workers import Gathering, Workers
from otel_fastperf.workers.sections import section

#: name of the part of a worker's snapshot that has its metrics
METRICS: Final = "metrics"

_SILENT: Final = "fastperf_workers_silent"


def gathered(
    renderer: Renderer, workers: Workers | None, guard: Guard, silent: frozenset[int] = frozenset()
) -> Iterable[MetricSeries]:
    """The families of all workers; of this process if it is none. Those that are `silent` are not asked."""
    breathe = Breath()
    if workers is None or not workers.join():
        return renderer.families(breathe)
    try:
        return summed(workers.gather(silent=silent), guard, breathe)
    except OSError as error:  # somebody has removed the folder
        guard.failed("workers", error)
        return renderer.families(breathe)


def summed(gathering: Gathering, guard: Guard, breathe: Callable[[], object]) -> Iterable[MetricSeries]:
    """Add up what the workers have told. Our own families come first."""
    total = Sum()
    told = [(answer.body, None if answer.has_ended else str(answer.slot)) for answer in gathering.answers]
    for body, worker in (*told, (gathering.ended, None)):
        try:
            total.add(read(section(body, METRICS), breathe), worker, breathe)
        except (ValueError, TypeError, LookupError, AttributeError, EOFError, struct.error) as error:
            # a worker of another version
            guard.failed("workers", error)
    row = total.families.get((True, _SILENT))
    if row is not None:
        row.rows[()] = [sum(answer.age is not None for answer in gathering.answers)]
    return sorted(total.families.values(), key=lambda series: not series.own)
