"""What one process has measured, as plain values: quick to write down, to send, to add up and to render.

A metric of the catalogue has a row for each label set. What other collectors give is kept sample by sample. Few rows
exist at a time: the garbage collector stops the whole process to walk thousands of them.
"""

import marshal
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from prometheus_client.core import Metric as LooseFamily
from prometheus_client.samples import Exemplar

from otel_fastperf.metrics import Merge

#: before each piece, its length
_LENGTH: Final = struct.Struct("<I")
#: rows per piece of a snapshot: what is encoded or decoded in one go must be short
_ROWS: Final = 32

#: A row by kind of family, each a list of plain values:
#: - counter: value, creation time, exemplar
#: - gauge: value
#: - histogram: sum, creation time, counts and exemplars by number of the bucket, without those that are empty
#: - sample of another collector: value, timestamp, exemplar
Row = list[Any]
#: values of the labels; of a sample its name and its labels
Key = tuple[Any, ...]


@dataclass(slots=True)
class MetricSeries:
    """One family.

    Attributes:
        name: Its name in OpenMetrics: a counter's without `_total`.
        kind: Its type in OpenMetrics.
        help: Its description.
        unit: Its unit, or "".
        labels: Names of the labels; None if the rows are samples.
        bounds: A histogram's buckets, as they are written.
        merge: How values of several workers become one.
        own: Whether it is on the registry of `Metrics`.
        rows: By label values.
        live: Reads the rows from a collector, one by one; in place of `rows`.
        loose: The family of another collector as it came.
    """

    name: str
    kind: str
    help: str
    unit: str = ""
    labels: tuple[str, ...] | None = None
    bounds: tuple[str, ...] = ()
    merge: Merge = "sum"
    own: bool = True
    rows: dict[Key, Row] = field(default_factory=dict)
    live: Callable[[], Iterator[tuple[Key, Row]]] | None = None
    loose: LooseFamily | None = None

    def head(self) -> tuple[Any, ...]:
        """All but the rows."""
        return self.name, self.kind, self.help, self.unit, self.labels, self.bounds, self.merge, self.own

    @classmethod
    def from_head(cls, head: tuple[Any, ...], rows: dict[Key, Row]) -> "MetricSeries":
        """The family of a `head` with these rows."""
        name, kind, told, unit, labels, bounds, merge, own = head
        return cls(name, kind, told, unit, labels, bounds, merge, own, rows)

    def each(self) -> Iterator[tuple[Key, Row]]:
        """Label values and row of each label set."""
        return iter(self.rows.items()) if self.live is None else self.live()

    def samples(self) -> Iterator[tuple[str, dict[str, str], float, float | None, Exemplar | None]]:
        """Name, labels, value, timestamp and exemplar of each line, in the order of the page."""
        if self.labels is None:
            for (name, labels), (value, timestamp, exemplar) in self.each():
                yield name, dict(labels), value, timestamp, _exemplar(exemplar)
            return
        lines = _LINES[self.kind]
        for values, row in self.each():
            labels = dict(zip(self.labels, values, strict=True))
            for suffix, more, value, exemplar in lines(self, row):
                yield self.name + suffix, labels | more, value, None, _exemplar(exemplar)

    def as_loose(self) -> LooseFamily:
        """The family for the writers of prometheus_client."""
        if self.loose is not None:
            return self.loose
        family = LooseFamily(self.name, self.help, self.kind, self.unit)
        for name, labels, value, timestamp, exemplar in self.samples():
            family.add_sample(name, labels, value, timestamp, exemplar)
        return family


_Line = tuple[str, dict[str, str], float, Any]


def _counter_lines(_series: MetricSeries, row: Row) -> Iterator[_Line]:
    yield "_total", {}, row[0], row[2]
    if row[1] is not None:
        yield "_created", {}, row[1], None


def _gauge_lines(_series: MetricSeries, row: Row) -> Iterator[_Line]:
    yield "", {}, row[0], None


def _histogram_lines(series: MetricSeries, row: Row) -> Iterator[_Line]:
    total, (_, _, counts, exemplars) = 0.0, row
    for number, bound in enumerate(series.bounds):
        total += counts.get(number, 0.0)
        yield "_bucket", {"le": bound}, total, exemplars.get(number)
    yield "_count", {}, total, None
    yield "_sum", {}, row[0], None
    if row[1] is not None:
        yield "_created", {}, row[1], None


_LINES: Final[dict[str, Callable[[MetricSeries, Row], Iterator[_Line]]]] = {
    "counter": _counter_lines,
    "gauge": _gauge_lines,
    "histogram": _histogram_lines,
}


def _exemplar(told: Any) -> Exemplar | None:
    return None if told is None else Exemplar(*told)


def loosened(series: MetricSeries) -> MetricSeries:
    """Take the samples of another collector's family apart, so that they can be sent and added up.

    Raises `TypeError` or `ValueError` if a value is no number.
    """
    family = series.loose
    if family is None or series.rows:
        return series
    for sample in family.samples:
        exemplar = None if sample.exemplar is None else [sample.exemplar.labels, sample.exemplar.value, _time(sample)]
        key = str(sample.name), tuple(sorted(sample.labels.items()))
        timestamp = None if sample.timestamp is None else float(sample.timestamp)
        series.rows[key] = [float(sample.value), timestamp, exemplar]
    return series


def _time(sample: Any) -> float | None:
    return None if sample.exemplar.timestamp is None else float(sample.exemplar.timestamp)


def written(families: Iterable[MetricSeries], breathe: Callable[[], object]) -> bytes:
    """All families as bytes.

    `marshal` reads ten times faster than JSON, and 16 workers are read for one page. It must not read what others may
    have written: only processes of the same user get here, and a damaged file is detected before.
    """
    pieces: list[bytes] = []
    for series in families:
        try:
            pieces += _pieces(loosened(series), breathe)
        except (TypeError, ValueError):  # a value that is no number: this process shows it, others do without
            continue
    return b"".join(part for piece in pieces for part in (_LENGTH.pack(len(piece)), piece))


def _pieces(series: MetricSeries, breathe: Callable[[], object]) -> list[bytes]:
    rows = series.each()
    pieces = [marshal.dumps((series.head(), tuple(islice(rows, _ROWS))))]
    while some := tuple(islice(rows, _ROWS)):
        pieces.append(marshal.dumps((None, some)))
        breathe()
    return pieces


def read(text: bytes, breathe: Callable[[], object]) -> Iterator[MetricSeries]:
    """The families that were `written`, a long one in several pieces."""
    head: tuple[Any, ...] = ()
    start = 0
    while start < len(text):
        (length,) = _LENGTH.unpack_from(text, start)
        start += _LENGTH.size + length
        told, rows = marshal.loads(text[start - length : start])  # noqa: S302 - see `written`
        head = told or head
        yield MetricSeries.from_head(head, dict(rows))
        breathe()
