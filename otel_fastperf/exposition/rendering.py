"""Renders the page from the registries. Each metric family is written separately, so one that fails hides no other."""

from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from inspect import signature
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest as write_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest

from otel_fastperf.exposition.negotiation import Format
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

    def body(self, form: Format) -> bytes:
        """The page in one format. Failures go to the guard. Not safe for concurrent calls."""
        for error in self._metrics.refresh():
            self._guard.failed("metrics_refresh", error)
        return b"".join((*self._parts(form), _END if form.openmetrics else b""))

    def _parts(self, form: Format) -> Iterator[bytes]:
        taken = set(_RESERVED)
        for family in self._collected(self._metrics.registry):
            yield self._rendered(family if form.openmetrics else _without_created(family), form)
            taken |= _names(family.name, family.type)
        if self._default_registry:
            for family in self._collected(REGISTRY):
                yield self._rendered(family, form, taken)

    def _collected(self, registry: CollectorRegistry) -> Iterator[Metric]:
        """Like the registry's own `collect`, which would stop at the first collector that raises."""
        target_info = registry.get_target_info()
        if target_info:
            yield InfoMetricFamily("target", "Target metadata", target_info)
        for collector in tuple(registry._collector_to_names):  # noqa: SLF001 - there is no other list of them
            try:
                yield from collector.collect()
            except Exception as error:  # noqa: BLE001 - the app's collectors may raise anything
                self._guard.failed("exposition", error)

    def _rendered(self, family: Metric, form: Format, taken: Collection[str] = ()) -> bytes:
        """The lines of a family; empty if it fails, or if one of its names is taken."""
        try:
            if _names(family.name, family.type).isdisjoint(taken):
                return _written(family, form)
            self._hide(family)
        except Exception as error:  # noqa: BLE001 - a lone surrogate, an exemplar on a gauge, a non-numeric value
            self._guard.failed("exposition", error)
        return b""

    def _hide(self, family: Metric) -> None:
        """Log once that the name is taken, except for the default registry's copies of our process collectors."""
        if not family.name.startswith(("process_", "python_")) and family.name not in self._logged:
            self._logged.add(family.name)
            message = f"{family.name} of prometheus_client's default registry is not shown: otel_fastperf has that name"
            self._guard.failed("exposition", ValueError(message))


def content_type(form: Format) -> str:
    """The `Content-Type` of a page in this format, as prometheus_client writes it."""
    if not form.openmetrics:
        return "text/plain; version=0.0.4; charset=utf-8"
    return "; ".join((OPENMETRICS, *(f"{key}={value}" for key, value in _escaping(form).items())))


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
