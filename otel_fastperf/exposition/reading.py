"""Reads registries into series: our own metrics directly, since their collectors would make an object per line."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client import metrics as prometheus_metrics
from prometheus_client.core import InfoMetricFamily
from prometheus_client.utils import floatToGoString

from otel_fastperf.exposition.series import Key, MetricSeries, Row
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Merge, Metric, Metrics, catalogued, declaration_of

#: how the app's own gauges are merged, by the mode that prometheus_client has for several processes
_MODES: Final[dict[str, Merge]] = {
    "sum": "sum",
    "livesum": "sum",
    "max": "max",
    "livemax": "max",
    "min": "min",
    "livemin": "min",
}
#: whether an environment variable of prometheus_client switches creation times off
_CREATED: Final = "_use_created"


def read_metrics(
    metrics: Metrics, guard: Guard, breathe: Callable[[], object], *, default_registry: bool
) -> Iterator[MetricSeries]:
    """The families of one `Telemetry`, then the app's own ones on prometheus_client's `REGISTRY`."""
    for error in metrics.refresh():
        guard.failed("metrics_refresh", error)
    yield from _read(metrics.registry, guard, breathe, own=True)
    if default_registry:
        yield from _read(REGISTRY, guard, breathe, own=False)


def _read(
    registry: CollectorRegistry, guard: Guard, breathe: Callable[[], object], *, own: bool
) -> Iterator[MetricSeries]:
    """Like the registry's own `collect`, which would stop at the first collector that raises."""
    target_info = registry.get_target_info()
    if target_info:
        yield _loose(InfoMetricFamily("target", "Target metadata", target_info), None, own=own)
    for collector in tuple(registry._collector_to_names):  # noqa: SLF001 - there is no other list of them
        try:
            declared = declaration_of(collector)
            if declared is not None:
                yield _declared(collector, declared)
            else:
                for family in collector.collect():
                    yield _loose(family, collector, own=own)
        except Exception as error:  # noqa: BLE001 - the app's collectors may raise anything
            guard.failed("exposition", error)
        breathe()


def _loose(family: Any, collector: Any, *, own: bool) -> MetricSeries:
    declared = catalogued(f"{family.name}_total" if family.type == "counter" else family.name) if own else None
    merge = declared.merge if declared is not None else "sum"
    if declared is None and family.type == "gauge":
        merge = _MODES.get(getattr(collector, "_multiprocess_mode", ""), "worker")
    return MetricSeries(family.name, family.type, family.documentation, family.unit, merge=merge, own=own, loose=family)


def _declared(collector: Any, metric: Metric) -> MetricSeries:
    name = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
    bounds = tuple(map(floatToGoString, collector._upper_bounds)) if metric.kind == "histogram" else ()  # noqa: SLF001
    children = {(): collector}
    if metric.labels:
        with collector._lock:  # noqa: SLF001 - as its own collect
            children = dict(collector._metrics)  # noqa: SLF001
    live = partial(_rows, children, _ROWS[metric.kind])
    # the app may have added labels of its own
    labels = tuple(collector._labelnames)  # noqa: SLF001
    return MetricSeries(name, metric.kind, metric.help, metric.unit, labels, bounds, metric.merge, live=live)


def _rows(children: Mapping[Key, Any], row: Callable[[Any], Row]) -> Iterator[tuple[Key, Row]]:
    return ((values, row(child)) for values, child in children.items())


def _created(child: Any) -> float | None:
    return child._created if getattr(prometheus_metrics, _CREATED, True) else None  # noqa: SLF001


def _told(exemplar: Any) -> list[Any] | None:
    return None if exemplar is None else [dict(exemplar.labels), exemplar.value, exemplar.timestamp]


# The values are read without their locks, which protect additions: reading one attribute is atomic.


def _counter(child: Any) -> Row:
    value = child._value  # noqa: SLF001
    return [value._value, _created(child), _told(value._exemplar)]  # noqa: SLF001


def _gauge(child: Any) -> Row:
    return [child._value._value]  # noqa: SLF001


def _histogram(child: Any) -> Row:
    filled = [(number, bucket) for number, bucket in enumerate(child._buckets) if bucket._value]  # noqa: SLF001
    counts = {number: bucket._value for number, bucket in filled}  # noqa: SLF001
    exemplars = {number: _told(bucket._exemplar) for number, bucket in filled if bucket._exemplar}  # noqa: SLF001
    return [child._sum._value, _created(child), counts, exemplars]  # noqa: SLF001


_ROWS: Final[dict[str, Callable[[Any], Row]]] = {"counter": _counter, "gauge": _gauge, "histogram": _histogram}
