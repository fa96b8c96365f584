"""Renders the page from the registries. Each metric family is written separately, so one that fails hides no other."""

from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from inspect import signature
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest

from otel_fastperf.exposition.negotiation import Format
from otel_fastperf.exposition.reading import read_metrics
from otel_fastperf.exposition.series import MetricSeries
from otel_fastperf.exposition.writing import can_write, write
from otel_fastperf.internals.breath import Breath
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import CATALOGUE, Metrics

#: prometheus_client >= 0.22 allows names outside of `[a-zA-Z0-9_:]`; older versions have nothing to escape
_ESCAPES: Final = "escaping" in signature(generate_latest).parameters
_END: Final = b"# EOF\n"

#: by type, the suffixes that sample names add to the family's name, as in `CollectorRegistry`
_SUFFIXES: Final = {
    "counter": ("_total", "_created"),
    "summary": ("_sum", "_count", "_created"),
    "histogram": ("_bucket", "_sum", "_count", "_created"),
    "gaugehistogram": ("_bucket", "_gsum", "_gcount"),
    "info": ("_info",),
}


class Renderer:
    """Renders the metrics of one `Telemetry`, then the app's own ones on prometheus_client's `REGISTRY`."""

    def __init__(self, metrics: Metrics, guard: Guard, *, default_registry: bool) -> None:
        self._metrics = metrics
        self._guard = guard
        self._default_registry = default_registry
        self._logged: set[str] = set()

    def families(self, breathe: Callable[[], object]) -> Iterator[MetricSeries]:
        """What this process has measured, each family read when it is due. Our own ones come first."""
        return read_metrics(self._metrics, self._guard, breathe, default_registry=self._default_registry)

    def body(self, form: Format, families: Iterable[MetricSeries] | None = None) -> bytes:
        """The page in one format, of these families (own ones first) or this process's. Failures go to the guard.

        Not safe for concurrent calls.
        """
        breathe = Breath()
        found = self.families(breathe) if families is None else families
        return b"".join((*self._parts(found, form, breathe), _END if form.openmetrics else b""))

    def _parts(self, families: Iterable[MetricSeries], form: Format, breathe: Callable[[], object]) -> Iterator[bytes]:
        taken = set(_RESERVED)
        for series in families:
            yield self._rendered(series, form, breathe, () if series.own else taken)
            if series.own:
                taken |= _names(series.name, series.kind)
            breathe()

    def _rendered(
        self, series: MetricSeries, form: Format, breathe: Callable[[], object], taken: Collection[str]
    ) -> bytes:
        """The lines of a family; empty if it fails, or if one of its names is taken."""
        try:
            if not _names(series.name, series.kind).isdisjoint(taken):
                self._hide(series)
            elif can_write(series, form):
                return write(series, form, breathe)
            else:
                return written_by_prometheus_client(series, form)
        except Exception as error:  # noqa: BLE001 - a lone surrogate, an exemplar on a gauge, a non-numeric value
            self._guard.failed("exposition", error)
        return b""

    def _hide(self, series: MetricSeries) -> None:
        """Log once that the name is taken, except for the default registry's copies of our process collectors."""
        if not series.name.startswith(("process_", "python_")) and series.name not in self._logged:
            self._logged.add(series.name)
            message = f"{series.name} of prometheus_client's default registry is not shown: otel_fastperf has that name"
            self._guard.failed("exposition", ValueError(message))


def content_type(form: Format) -> str:
    """The `Content-Type` of a page in this format, as prometheus_client writes it."""
    if not form.openmetrics:
        return "text/plain; version=0.0.4; charset=utf-8"
    return "; ".join((OPENMETRICS, *(f"{key}={value}" for key, value in _escaping(form).items())))


def written_by_prometheus_client(series: MetricSeries, form: Format) -> bytes:
    """The lines of a family."""
    family = series.as_loose()
    return _written(_without_created(family) if series.own and not form.openmetrics else family, form)


class _Only:
    """A registry of one family, for prometheus_client's writers."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _written(family: Metric, form: Format) -> bytes:
    if not form.openmetrics:
        return write_text(_Only(family))
    write: Callable[..., bytes] = generate_latest
    return write(_Only(family), **_escaping(form)).removesuffix(_END)


def _escaping(form: Format) -> dict[str, str]:
    return {"escaping": form.escaping} if form.escaping and _ESCAPES else {}


def _names(family: str, kind: str) -> frozenset[str]:
    """The names of a family and its samples."""
    return frozenset(family + suffix for suffix in ("", *_SUFFIXES.get(kind, ())))


#: includes metrics that are not on the page yet; otherwise a metric of the app would appear first and vanish later
_RESERVED: Final = frozenset[str]().union(
    *(_names(metric.name.removesuffix("_total"), metric.kind) for metric in CATALOGUE if metric.source != "prometheus")
)


def _without_created(family: Metric) -> Metric:
    """Drop the creation times, which prometheus_client would write in the text format as an extra gauge per metric."""
    created = f"{family.name}_created"
    family = copy(family)
    family.samples = [sample for sample in family.samples if sample.name != created]
    return family
