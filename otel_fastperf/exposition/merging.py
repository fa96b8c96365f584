"""Adds up what several workers have measured."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from otel_fastperf.exposition.series import MetricSeries, Row, loosened, read, written

#: label of the worker, where values of several workers make no sense as one
WORKER: Final = "worker"
#: types whose values only grow: they count for ever what a worker has counted
_LASTING: Final = frozenset({"counter", "histogram", "summary"})
#: samples with the time at which counting began
_CREATED: Final = "_created"


class Sum:
    """Families of several workers, added up."""

    def __init__(self) -> None:
        """Nothing yet."""
        #: by whether it is on our registry, and name: the default registry has copies of `process_*`
        self.families: dict[tuple[bool, str], MetricSeries] = {}

    def add(self, families: Iterable[MetricSeries], worker: str | None, breathe: Callable[[], object]) -> None:
        """Add a worker's families; None for one that has ended, which leaves only what lasts."""
        for series in families:
            if worker is not None or series.kind in _LASTING:
                self._add(loosened(series), worker or "", breathe)

    def _add(self, series: MetricSeries, worker: str, breathe: Callable[[], object]) -> None:
        if series.merge == "worker" and series.kind not in _LASTING:
            series = _labelled(series, worker)
        there = self.families.get((series.own, series.name))
        if there is None:
            series.loose = None
            self.families[series.own, series.name] = series
            return
        if (there.kind, there.labels, there.bounds) != (series.kind, series.labels, series.bounds):
            # the code has changed between two workers: what those of this one count is known
            return
        merge = _ADDITIONS[series.kind if series.labels is not None else "samples"]
        for number, (key, row) in enumerate(series.rows.items()):
            before = there.rows.get(key)
            if before is None:
                there.rows[key] = row
            else:
                merge(there, key, before, row)
            if not number % 32:
                breathe()


def folded(ended: bytes, dead: bytes) -> bytes:
    """What workers that have ended had counted, and one more of them."""
    total = Sum()
    total.add(read(ended, _at_once), None, _at_once)
    total.add(read(dead, _at_once), None, _at_once)
    return written(total.families.values(), _at_once)


def _at_once() -> None:
    """Take no breath: others wait for their turn."""


def _labelled(series: MetricSeries, worker: str) -> MetricSeries:
    if series.labels is not None:
        rows = {(*key, worker): row for key, row in series.rows.items()}
        labels: tuple[str, ...] | None = (*series.labels, WORKER)
    else:
        labels = None
        rows = {
            (name, tuple(sorted({WORKER: worker, **dict(given)}.items()))): row
            for (name, given), row in series.rows.items()
        }
    return MetricSeries(series.name, series.kind, series.help, series.unit, labels, (), series.merge, series.own, rows)


def _add_counter(series: MetricSeries, _key: Any, into: Row, row: Row) -> None:
    into[0] = _one(series, into[0], row[0])
    into[1] = _earlier(into[1], row[1])
    into[2] = _later(into[2], row[2])


def _add_gauge(series: MetricSeries, _key: Any, into: Row, row: Row) -> None:
    into[0] = _one(series, into[0], row[0])


def _add_histogram(_series: MetricSeries, _key: Any, into: Row, row: Row) -> None:
    into[0] += row[0]
    into[1] = _earlier(into[1], row[1])
    counts, exemplars = into[2:]
    for number, count in row[2].items():
        counts[number] = counts.get(number, 0.0) + count
    for number, exemplar in row[3].items():
        exemplars[number] = _later(exemplars.get(number), exemplar)


def _add_sample(series: MetricSeries, key: Any, into: Row, row: Row) -> None:
    if series.kind in _LASTING and key[0].endswith(_CREATED):
        into[0] = _earlier(into[0], row[0])
    elif series.kind == "summary" and dict(key[1]).keys() >= {"quantile"}:
        into[0] = max(into[0], row[0])
    elif series.kind in _LASTING or series.kind == "gaugehistogram":
        into[0] += row[0]
    else:
        into[0] = _one(series, into[0], row[0])
    into[2] = _later(into[2], row[2])


def _one(series: MetricSeries, one: float, other: float) -> float:
    if series.kind in {"info", "stateset", "unknown"} or series.merge == "max":
        return max(one, other)
    return min(one, other) if series.merge == "min" else one + other


def _earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


def _later(one: Any, other: Any) -> Any:
    """The younger exemplar."""
    if one is None or other is None:
        return one or other
    return other if (other[2] or 0.0) > (one[2] or 0.0) else one


_ADDITIONS: Final[dict[str, Callable[[MetricSeries, Any, Row, Row], None]]] = {
    "counter": _add_counter,
    "gauge": _add_gauge,
    "histogram": _add_histogram,
    "samples": _add_sample,
}
