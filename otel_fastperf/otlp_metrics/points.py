"""A reading of the registry as the SDK's `MetricsData`, which its exporters send.

Names and attributes are those of the semantic conventions, from which Prometheus' OTLP receiver makes the names on
`/metrics` again: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
"""

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_fastperf.metrics import Metrics

#: the underscores of these beginnings are dots in OpenTelemetry's names, longest first
_DOTTED: Final = (
    *("http_server_response_body_", "http_server_request_body_", "http_server_request_", "http_client_request_"),
    *("http_server_", "db_client_connection_", "db_client_operation_", "fastperf_", "process_", "python_"),
)
#: labels that are attributes of the conventions
OF_CONVENTIONS: Final = {
    "db_client_connection_pool_name": "db.client.connection.pool.name",
    "db_client_connection_state": "db.client.connection.state",
    "db_namespace": "db.namespace",
    "db_operation_name": "db.operation.name",
    "db_system_name": "db.system.name",
    "error_type": "error.type",
    "http_request_method": "http.request.method",
    "http_response_status_code": "http.response.status_code",
    "http_route": "http.route",
    "server_address": "server.address",
    "url_scheme": "url.scheme",
}
_STATUS: Final = "http_response_status_code"
#: end of a name -> unit in UCUM. A count has none: for "1", Prometheus would append `_ratio`
_UNITS: Final = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}

_Labels = tuple[tuple[str, str], ...]


class _Value(NamedTuple):
    """What a series has counted: a number, or the buckets of a histogram and the sum of what is in them."""

    buckets: tuple[float, ...]
    total: float

    def since(self, before: "_Value | None") -> "_Value":
        """What has been added; everything, if the process counts anew."""
        if before is None or self.total < before.total or sum(self.buckets) < sum(before.buckets):
            return self
        return _Value(
            tuple(now - then for now, then in zip(self.buckets, before.buckets, strict=True)), self.total - before.total
        )


class Readings:
    """Readings of one registry, cumulative since the first moment, or each since the one before."""

    def __init__(
        self,
        metrics: Metrics,
        resource: Resource,
        scope: InstrumentationScope,
        failed: Callable[[Exception], object],
        *,
        delta: bool,
        left_out: Callable[[], Container[str]] = frozenset,
    ) -> None:
        """Read nothing yet.

        Args:
            metrics: The metrics to read.
            resource: What they say of this process.
            scope: The name of this package.
            failed: Is told of a gauge that cannot be updated.
            delta: Counters and histograms count since the last reading.
            left_out: The names not to read unless the application has added labels, asked for at each reading.
        """
        self._metrics = metrics
        self._resource = resource
        self._scope = scope
        self._failed = failed
        self._delta = delta
        self._left_out = left_out
        self._since = time.time_ns()
        self._before: dict[tuple[str, _Labels], _Value] = {}

    def read(self) -> MetricsData:
        """All metrics, up to date. Blocks for some ms."""
        for error in self._metrics.refresh():
            self._failed(error)
        left_out, labelled = self._left_out(), self._metrics.own_labels
        families = tuple(
            each
            for each in self._metrics.registry.collect()
            if otlp_name(each.name) not in left_out or labelled.get(each.name)
        )
        now = time.time_ns()
        found = tuple(metric for family in families if (metric := self._metric(family, now)) is not None)
        if self._delta:
            self._since = now
        scope = ScopeMetrics(self._scope, found, self._scope.schema_url or "")
        resource = ResourceMetrics(self._resource, (scope,), self._resource.schema_url)
        return MetricsData((resource,))

    def _metric(self, family: Any, now: int) -> Metric | None:
        kind = family.type
        temporality = AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE
        data: Gauge | Sum | Histogram
        if kind == "histogram":
            points = tuple(self._histogram_points(family, now))
            data = Histogram(points, temporality)
        elif kind == "counter":
            samples = [sample for sample in family.samples if sample.name.endswith("_total")]
            data = Sum(tuple(self._counter_points(samples, now)), temporality, is_monotonic=True)
        else:
            data = Gauge(
                tuple(
                    NumberDataPoint(_attributes(sample.labels), self._since, now, float(sample.value))
                    for sample in family.samples
                )
            )
        if not data.data_points:
            return None
        return Metric(otlp_name(family.name), family.documentation, otlp_unit(family.name), data)

    def _counter_points(self, samples: Iterable[Any], now: int) -> Iterator[NumberDataPoint]:
        for sample in samples:
            labels = tuple(sample.labels.items())
            value = self._counted(sample.name, labels, _Value((), float(sample.value)))
            exemplars = list(_exemplars([sample]))
            yield NumberDataPoint(_attributes(sample.labels), self._since, now, value.total, exemplars)

    def _histogram_points(self, family: Any, now: int) -> Iterator[HistogramDataPoint]:
        for labels, samples in _by_series(family).items():
            buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
            total = next(float(sample.value) for sample in samples if sample.name.endswith("_sum"))
            # those of Prometheus contain the smaller ones
            counts = [now - before for before, now in _pairs([sample.value for sample in buckets])]
            value = self._counted(family.name, labels, _Value(tuple(counts), total))
            numbers = [int(count) for count in value.buckets]
            bounds = [float(sample.labels["le"]) for sample in buckets[:-1]]
            yield HistogramDataPoint(
                _attributes(dict(labels)),
                self._since,
                now,
                sum(numbers),
                value.total,
                numbers,
                bounds,
                None,  # type: ignore[arg-type] # unknown, which the protocol allows
                None,  # type: ignore[arg-type]
                list(_exemplars(buckets)),
            )

    def _counted(self, name: str, labels: _Labels, value: _Value) -> _Value:
        if not self._delta:
            return value
        before = self._before.get((name, labels))
        self._before[name, labels] = value
        return value.since(before)


def _by_series(family: Any) -> dict[_Labels, list[Any]]:
    found: dict[_Labels, list[Any]] = {}
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            found.setdefault(labels, []).append(sample)
    return found


def _pairs(values: Sequence[float]) -> Iterator[tuple[float, float]]:
    return zip((0.0, *values), values, strict=False)


def _attributes(labels: Mapping[str, str]) -> dict[str, str | int]:
    """The labels that apply, as attributes."""
    return {
        OF_CONVENTIONS.get(name, name): int(value) if name == _STATUS and value.isdecimal() else value
        for name, value in labels.items()
        if value
    }


def _exemplars(samples: Iterable[Any]) -> Iterator[Exemplar]:
    for sample in samples:
        exemplar = sample.exemplar
        if exemplar is not None and exemplar.timestamp is not None:
            trace_id, span_id = (int(exemplar.labels[name], 16) for name in ("trace_id", "span_id"))
            yield Exemplar({}, float(exemplar.value), int(exemplar.timestamp * 1e9), span_id, trace_id)


def otlp_name(name: str) -> str:
    """OpenTelemetry's name of a metric: `http.server.request.duration`."""
    for end in _UNITS:
        name = name.removesuffix(end)
    beginning = next((each for each in _DOTTED if name.startswith(each)), "")
    return beginning.replace("_", ".") + name.removeprefix(beginning)


def otlp_unit(name: str) -> str:
    """The unit in UCUM, or nothing for a count."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
