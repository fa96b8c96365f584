"""Writes families of the catalogue as prometheus_client would, but without an object for each line.

Their names and labels are plain, so that the usual schemes do not escape them.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import utils

from otel_fastperf.exposition.negotiation import Format
from otel_fastperf.exposition.series import MetricSeries, Row

#: schemes that leave names of letters and underscores as they are
_LEAVE_PLAIN: Final = frozenset({"", "underscores", "allow-utf-8"})
_as_go: Final[Callable[[float], str]] = utils.floatToGoString
#: from here on, prometheus_client writes numbers as Go does
_GOES_ON: Final = 1e6


def can_write(series: MetricSeries, form: Format) -> bool:
    """Whether `write` knows the family; if not, prometheus_client must write it."""
    return series.labels is not None and form.escaping in _LEAVE_PLAIN


def write(series: MetricSeries, form: Format, breathe: Callable[[], object]) -> bytes:
    """The lines of a family."""
    parts = [_head(series, openmetrics=form.openmetrics)]
    rows = _WRITERS[series.kind]
    labels = series.labels or ()
    order = sorted(range(len(labels)), key=lambda number: labels[number])
    # a histogram's `le` stands between the others
    cut = sum(label < "le" for label in labels)
    for number, (values, row) in enumerate(series.each()):
        pairs = [f'{labels[place]}="{_escaped(values[place])}"' for place in order]
        parts += rows(series, pairs, cut, row, form.openmetrics)
        if not number % 8:
            breathe()
    return "".join(parts).encode()


def _head(series: MetricSeries, *, openmetrics: bool) -> str:
    name = series.name
    told = series.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        told = told.replace('"', r"\"")
    elif series.kind == "counter":
        name += "_total"
    unit = f"# UNIT {name} {series.unit}\n" if openmetrics and series.unit else ""
    return f"# HELP {name} {told}\n# TYPE {name} {series.kind}\n{unit}"


def _counter(series: MetricSeries, pairs: list[str], _cut: int, row: Row, openmetrics: bool) -> Iterator[str]:  # noqa: FBT001
    labels = _braced(pairs)
    exemplar = _exemplar(row[2]) if openmetrics else ""
    yield f"{series.name}_total{labels} {_number(row[0])}{exemplar}\n"
    if openmetrics and row[1] is not None:
        yield f"{series.name}_created{labels} {_number(row[1])}\n"


def _gauge(series: MetricSeries, pairs: list[str], _cut: int, row: Row, _openmetrics: bool) -> Iterator[str]:  # noqa: FBT001
    yield f"{series.name}{_braced(pairs)} {_number(row[0])}\n"


def _histogram(series: MetricSeries, pairs: list[str], cut: int, row: Row, openmetrics: bool) -> Iterator[str]:  # noqa: FBT001
    before, after = ",".join([*pairs[:cut], 'le="']), ",".join(['"', *pairs[cut:]])
    begin, end = f"{series.name}_bucket{{{before}", f"{after}}} "
    total, counts, exemplars = 0.0, row[2], row[3] if openmetrics else {}
    for number, bound in enumerate(series.bounds):
        total += counts.get(number, 0.0)
        yield f"{begin}{bound}{end}{_number(total)}{_exemplar(exemplars.get(number))}\n"
    labels = _braced(pairs)
    yield f"{series.name}_count{labels} {_number(total)}\n{series.name}_sum{labels} {_number(row[0])}\n"
    if openmetrics and row[1] is not None:
        yield f"{series.name}_created{labels} {_number(row[1])}\n"


_WRITERS: Final[dict[str, Callable[..., Iterator[str]]]] = {
    "counter": _counter,
    "gauge": _gauge,
    "histogram": _histogram,
}


def _braced(pairs: list[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _number(value: float) -> str:
    return repr(float(value)) if 0.0 <= value < _GOES_ON else _as_go(value)


def _exemplar(told: Any) -> str:
    if told is None:
        return ""
    labels, value, moment = told
    pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in sorted(labels.items()))
    return f" # {{{pairs}}} {_as_go(value)} {moment}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
