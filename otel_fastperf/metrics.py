"""Every metric, declared once.

Names, units, labels and buckets follow OpenTelemetry's semantic conventions (1.44), mapped to Prometheus; metrics
without a convention are called `fastperf_*`. `CATALOGUE` is the single source: docs, tests, dashboards and rules read
it.

Only this module and `exposition` import prometheus_client.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.samples import Exemplar
from prometheus_client.values import MutexValue

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.open_labels import OVERFLOW, OpenLabels
from otel_fastperf.internals.text_safety import escape_surrogates

Kind = Literal["counter", "gauge", "histogram"]
#: how the values of several workers become one: by sum, maximum or minimum, or one gauge with a label each
Merge = Literal["sum", "max", "min", "worker"]

# https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserverrequestduration
HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#metric-dbclientoperationduration
DB_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
BODY_BYTES: Final = (100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
#: fine at the low end: a wait for a connection or a thread is normally close to zero
WAIT_SECONDS: Final = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
USE_SECONDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BLOCKED_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
GC_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
SELF_SECONDS: Final = (0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
STATEMENTS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
CONNECTION_SECONDS: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as it appears on `/metrics`.

    Attributes:
        name: Name of its family there: a counter's with `_total`, a histogram's without `_bucket`.
        merge: How the values of several workers become one. Histograms are summed, and so are counters, except those
            that the kernel counts for all workers together: the highest is the latest.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"

    @property
    def unit(self) -> str:
        """The unit at the end of the name: `seconds`, `bytes` or `ratio`; `""` for a count."""
        word = self.name.removesuffix("_total").rpartition("_")[2]
        return word if word in {"seconds", "bytes", "ratio"} else ""

    @property
    def source(self) -> Literal["semconv", "prometheus", "fastperf"]:
        """Where the name comes from: OpenTelemetry's conventions, prometheus_client's collectors, or this package."""
        if self.name.startswith("fastperf_"):
            return "fastperf"
        return "prometheus" if self.name.startswith(("process_", "python_")) else "semconv"


_HTTP: Final = ("http_request_method", "http_route", "http_response_status_code", "error_type", "url_scheme")
_ROUTE: Final = ("http_request_method", "http_route")
_HTTP_CLIENT: Final = ("http_request_method", "server_address", "http_response_status_code", "error_type")
_DB: Final = ("db_system_name", "db_namespace", "db_operation_name", "error_type")
_POOL: Final = ("db_client_connection_pool_name",)
_CACHE: Final = ("cache",)
_PYTHON: Final = ("version", "implementation", "major", "minor", "patchlevel")
_BUILD: Final = ("version", "fastapi", "sqlalchemy", "opentelemetry", "server_span", "service_version")

_REQUEST_DURATION: Final = "http_server_request_duration_seconds"

_REQUESTS: Final = (
    Metric(
        _REQUEST_DURATION,
        "histogram",
        "Duration of HTTP server requests, first to last byte.",
        _HTTP,
        HTTP_SECONDS,
    ),
    Metric(
        "http_server_active_requests",
        "gauge",
        "HTTP requests being served.",
        ("http_request_method", "url_scheme"),
    ),
    Metric(
        "http_server_request_body_size_bytes",
        "histogram",
        "Size of the request body, as far as the app read it.",
        _ROUTE,
        BODY_BYTES,
    ),
    Metric(
        "http_server_response_body_size_bytes",
        "histogram",
        "Size of the response body that the app sent.",
        _ROUTE,
        BODY_BYTES,
    ),
    Metric(
        "fastperf_request_time_to_first_byte_seconds",
        "histogram",
        "Time until the app passed the first byte of the response's body; off unless `metrics.time_to_first_byte` is set.",
        _ROUTE,
        HTTP_SECONDS,
    ),
    Metric("fastperf_request_db_statements", "histogram", "SQL statements per request.", _ROUTE, STATEMENTS),
    Metric(
        "fastperf_request_time_seconds_total",
        "counter",
        "Time that requests took, by segment; the segments of a route add up to the duration of its requests.",
        (*_ROUTE, "segment"),
    ),
    Metric(
        "fastperf_request_await_seconds_total",
        "counter",
        "Time that slow requests awaited something or computed in a thread (`activity`), by the library and function that"
        " the application calls, estimated from samples; `library` is absent for the application's own code.",
        (*_ROUTE, "activity", "library", "function"),
    ),
    Metric(
        "fastperf_middleware_self_time_seconds",
        "histogram",
        "Time a request spent in the middleware itself, on the way in and out.",
        ("middleware",),
        SELF_SECONDS,
    ),
    Metric(
        "fastperf_middlewares", "gauge", "Middlewares of the app, by kind: asgi or base_http.", ("kind",), merge="max"
    ),
    Metric("fastperf_websocket_active_connections", "gauge", "Open WebSocket connections."),
    Metric(
        "fastperf_websocket_connection_duration_seconds",
        "histogram",
        "Duration of WebSocket connections.",
        (*_ROUTE, "error_type"),
        CONNECTION_SECONDS,
    ),
    Metric(
        "fastperf_websocket_message_spans_dropped_total",
        "counter",
        "Messages of WebSocket connections without a span, beyond `requests.websocket_message_spans` a second.",
    ),
)

_DATABASE: Final = (
    Metric(
        "db_client_operation_duration_seconds",
        "histogram",
        "Duration of SQL statements, measured around the driver's cursor.",
        _DB,
        DB_SECONDS,
    ),
    Metric(
        "db_client_connection_count",
        "gauge",
        "Connections in the pool, by state.",
        (*_POOL, "db_client_connection_state"),
    ),
    Metric("db_client_connection_max", "gauge", "Maximum number of open connections.", _POOL),
    Metric("db_client_connection_pending_requests", "gauge", "Pending requests for a connection.", _POOL),
    Metric(
        "db_client_connection_wait_time_seconds",
        "histogram",
        "Time to get a connection from the pool.",
        _POOL,
        WAIT_SECONDS,
    ),
    Metric(
        "db_client_connection_use_time_seconds",
        "histogram",
        "Time from checking a connection out to returning it.",
        _POOL,
        USE_SECONDS,
    ),
    Metric(
        "db_client_connection_create_time_seconds", "histogram", "Time to open a new connection.", _POOL, WAIT_SECONDS
    ),
    Metric(
        "db_client_connection_timeouts_total",
        "counter",
        "Waits for a connection that reached the pool's timeout.",
        _POOL,
    ),
)

_CLIENTS: Final = (
    Metric(
        "http_client_request_duration_seconds",
        "histogram",
        "Duration of outgoing HTTP requests, up to the response's headers where a client streams the body.",
        _HTTP_CLIENT,
        HTTP_SECONDS,
    ),
)

_LOOP_AND_THREADS: Final = (
    Metric(
        "fastperf_event_loop_lag_seconds",
        "histogram",
        "How late the event loop ran a timer, like Node.js's eventloop.delay.",
        (),
        LAG_SECONDS,
    ),
    Metric(
        "fastperf_event_loop_busy_seconds_total",
        "counter",
        "Time in which the event loop ran callbacks or was blocked.",
    ),
    Metric(
        "fastperf_event_loop_utilization_ratio",
        "gauge",
        "Share of the last second in which the event loop was busy, 0 to 1.",
        merge="worker",
    ),
    Metric("fastperf_event_loop_tasks", "gauge", "asyncio tasks on the event loop."),
    Metric(
        "fastperf_event_loop_blocked_seconds",
        "histogram",
        "How long code blocked the event loop, by cause and by the route that it ran for.",
        ("cause", *_ROUTE),
        BLOCKED_SECONDS,
    ),
    Metric(
        "fastperf_threadpool_limit",
        "gauge",
        "Maximum number of threads for `def` endpoints: the tokens of anyio's default limiter.",
    ),
    Metric("fastperf_threadpool_borrowed", "gauge", "Threads in use: borrowed tokens."),
    Metric("fastperf_threadpool_waiting", "gauge", "Tasks waiting for a thread."),
    Metric("fastperf_threadpool_wait_seconds", "histogram", "Time a task waited for a thread.", (), WAIT_SECONDS),
)

_PROCESSORS: Final = (
    Metric(
        "fastperf_cpu_wait_seconds_total",
        "counter",
        "Time in which threads of the process were ready to run and got no processor, summed over threads.",
    ),
    Metric(
        "fastperf_cpu_periods_total",
        "counter",
        "Periods of the cgroup's (container's) CPU limit in which something ran; absent without a limit.",
        merge="max",
    ),
    Metric(
        "fastperf_cpu_throttled_periods_total",
        "counter",
        "Of these, periods in which the limit was used up, and the container stopped until the next one.",
        merge="max",
    ),
    Metric(
        "fastperf_cpu_throttled_seconds_total",
        "counter",
        "Time for which the container was stopped, summed over processors; absent without a limit.",
        merge="max",
    ),
)

_MEMORY: Final = (
    Metric(
        "fastperf_memory_unique_bytes",
        "gauge",
        "Memory unique to this process (USS), which would be free without it.",
        merge="worker",
    ),
    Metric(
        "fastperf_memory_resident_bytes",
        "gauge",
        "Resident memory (RSS) at the moment of fastperf_memory_unique_bytes, to compare the two.",
        merge="worker",
    ),
    Metric(
        "fastperf_memory_limit_bytes",
        "gauge",
        "Memory limit of the cgroup (container); absent without a limit.",
        merge="max",
    ),
    Metric(
        "fastperf_memory_headroom_bytes",
        "gauge",
        "Limit minus the cgroup's working set; absent without a limit.",
        merge="min",
    ),
    Metric(
        "fastperf_gc_pause_seconds",
        "histogram",
        "How long the garbage collector stopped the process.",
        ("generation",),
        GC_SECONDS,
    ),
)

_CACHES: Final = (
    Metric("fastperf_cache_hits_total", "counter", "Look-ups that found an entry in the cache.", _CACHE),
    Metric("fastperf_cache_misses_total", "counter", "Look-ups that found no entry in the cache.", _CACHE),
    Metric("fastperf_cache_evictions_total", "counter", "Entries evicted because the cache was full.", _CACHE),
    Metric("fastperf_cache_size", "gauge", "Entries in the cache.", _CACHE),
    Metric("fastperf_cache_max_size", "gauge", "Maximum number of entries; absent without a limit.", _CACHE),
)

_FINDINGS: Final = (
    Metric("fastperf_findings_total", "counter", "Bottlenecks found, by kind.", ("kind", *_ROUTE)),
    Metric(
        "fastperf_findings_dropped_total",
        "counter",
        "Merged findings dropped because their number reached `findings.most`.",
        ("kind",),
    ),
    Metric(
        "fastperf_findings_suppressed_total",
        "counter",
        "Warnings and spans suppressed because their number reached the limit per minute.",
        ("kind",),
    ),
    Metric(
        "fastperf_explain_total",
        "counter",
        "Slow statements considered for EXPLAIN, by outcome: explained, or the reason why not.",
        ("outcome",),
    ),
)

_TELEMETRY: Final = (
    Metric(
        "fastperf_spans_total",
        "counter",
        "Spans by outcome: exported, or dropped_ and why: queue_full, rejected, too_large, encoding, exit.",
        ("outcome",),
    ),
    Metric(
        "fastperf_traces_kept_total",
        "counter",
        "Traces exported although the sampler dropped them, by reason: see `traces.keep`.",
        ("reason",),
    ),
    Metric(
        "fastperf_kept_spans_lost_total",
        "counter",
        "Spans of these traces that were not kept because of their number or size.",
    ),
    Metric("fastperf_spans_queued", "gauge", "Spans waiting for export."),
    Metric(
        "fastperf_export_failing_seconds",
        "gauge",
        "Time since spans have not reached the receiver, which are kept and sent again; 0 while they reach it.",
        merge="max",
    ),
    Metric(
        "fastperf_telemetry_errors_total",
        "counter",
        "Failures inside telemetry, by part; requests are not affected.",
        ("part",),
    ),
    Metric(
        "fastperf_metric_overflow_total",
        "counter",
        "Observations whose label values were replaced by `_OVERFLOW`, by the label that has too many.",
        ("metric", "label"),
    ),
    Metric("fastperf_workers", "gauge", "Living worker processes of the service, for which one scrape answers."),
    Metric(
        "fastperf_workers_silent",
        "gauge",
        "Of these, those that did not answer in time; their last known values are shown.",
    ),
    Metric(
        "fastperf_build_info",
        "gauge",
        "Installed versions, and that of the service (`service.version`); always 1.",
        _BUILD,
        merge="max",
    ),
)

#: prometheus_client's `ProcessCollector` (Linux only), `PlatformCollector` and `GCCollector` (CPython only)
_PROMETHEUS: Final = (
    Metric("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", merge="worker"),
    Metric("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", merge="worker"),
    Metric(
        "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", merge="min"
    ),
    Metric("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    Metric("process_open_fds", "gauge", "Number of open file descriptors.", merge="max"),
    Metric("process_max_fds", "gauge", "Maximum number of open file descriptors.", merge="max"),
    Metric("python_info", "gauge", "Python platform information", _PYTHON, merge="max"),
    Metric("python_gc_objects_collected_total", "counter", "Objects collected during gc", ("generation",)),
    Metric(
        "python_gc_objects_uncollectable_total", "counter", "Uncollectable objects found during GC", ("generation",)
    ),
    Metric("python_gc_collections_total", "counter", "Number of times this generation was collected", ("generation",)),
)

#: the catalogue by subject, in the order of the docs
GROUPS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "Requests": _REQUESTS,
    "Database": _DATABASE,
    "Outgoing calls": _CLIENTS,
    "Event loop and threads": _LOOP_AND_THREADS,
    "Processors": _PROCESSORS,
    "Memory and garbage collection": _MEMORY,
    "Caches": _CACHES,
    "Findings": _FINDINGS,
    "Telemetry itself": _TELEMETRY,
    "Process and Python": _PROMETHEUS,
}

CATALOGUE: Final[tuple[Metric, ...]] = tuple(metric for group in GROUPS.values() for metric in group)

_BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}


def catalogued(name: str) -> Metric | None:
    """The metric of the catalogue with this name."""
    return _BY_NAME.get(name)


def declaration_of(collector: object) -> Metric | None:
    """The metric of the catalogue for which this collector was made; None for another one's collector."""
    match collector:
        case _FastCounter():
            return _BY_NAME.get(f"{collector._name}_total")  # noqa: SLF001 - as in `_FastCounter`
        case _FastGauge() | _FastHistogram():
            return _BY_NAME.get(collector._name)  # noqa: SLF001 - as in `_FastCounter`
        case _:
            return None


def _value() -> Any:
    """A value in this process's memory.

    prometheus_client's metrics would put theirs into files if PROMETHEUS_MULTIPROC_DIR is set: then a folder that is
    missing or full would stop the app, and exemplars and `process_*` would be lost. Workers are merged without that.
    """
    return MutexValue(None, "", "", (), (), "")  # type: ignore[no-untyped-call]


class _FastHistogram(Histogram):
    """prometheus_client's histogram with a faster `observe`, which finds the bucket by bisection.

    Measured: 1.6 us instead of 2.9 with an exemplar, 0.8 instead of 1.1 without. It skips the label check, which only
    catches misuse, and the check of the exemplar's labels, which are always the same two.
    """

    def _metric_init(self) -> None:
        self._buckets = [_value() for _ in self._upper_bounds]
        self._sum = _value()
        self._created = time.time()

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count `amount` in its bucket, with the exemplar if one is given."""
        if amount:
            self._sum.inc(amount)
        bucket = self._buckets[bisect_left(self._upper_bounds, amount)]
        bucket.inc(1)
        if exemplar is not None:
            bucket.set_exemplar(Exemplar(exemplar, amount, time.time()))


class _FastCounter(Counter):
    """prometheus_client's counter without the checks of `inc`, which only catch misuse."""

    def _metric_init(self) -> None:
        self._value = _value()
        self._created = time.time()

    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        """Add `amount`, which must not be negative, with the exemplar if one is given."""
        self._value.inc(amount)
        if exemplar is not None:
            self._value.set_exemplar(Exemplar(exemplar, amount, time.time()))


def adder(counter: Any) -> Callable[[float], None]:
    """What adds to a counter, without the call of `inc` around it."""
    add: Callable[[float], None] = counter._value.inc  # noqa: SLF001 - as in `_FastCounter`
    return add


def raise_to(counter: Any, total: float) -> None:
    """Set a counter to what the kernel has counted. It never falls."""
    counter.inc(max(total - counter._value.get(), 0.0))  # noqa: SLF001 - as in `_FastCounter`


class _FastGauge(Gauge):
    """prometheus_client's gauge without the label check of `inc` and `dec`, which only catches misuse."""

    def _metric_init(self) -> None:
        self._value = _value()

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self._value.inc(amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract."""
        self._value.inc(-amount)


class Family:
    """A metric with labels: a fast look-up of the child for given label values, and a limit on their number.

    prometheus_client's `.labels()` takes 1 us, a dict look-up by tuple 0.1 us. A label whose values come from outside
    has a bounded number of them, see `OpenLabels`. Once there are `max_series` children, new label values share one
    series whose labels are all `_OVERFLOW`. `fastperf_metric_overflow_total` counts both, with the label that did it.
    """

    __slots__ = ("_children", "_labels", "_lock", "_metric", "_open", "_overflowed", "_widest", "max_series")

    def __init__(
        self,
        metric: Any,
        labels: tuple[str, ...],
        max_series: int,
        overflowed: Callable[[str], None],
        own: tuple[str, ...] = (),
    ) -> None:
        """`overflowed(label)` is called for each observation that loses the value of this label.

        `own`: labels that the application has added; they come after those of the catalogue.
        """
        self._metric = metric
        self._labels = labels = labels + own
        self._children: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        self._open = OpenLabels(labels, own)
        self._overflowed = overflowed
        #: the label with the most values, once there are `max_series` children
        self._widest = ""
        self.max_series: int = max_series

    def child(self, *values: str) -> Any:
        """The child for these label values, in the order of the catalogue; `""` leaves a label out.

        Call this for each observation. A stored child bypasses the overflow counter, and no longer appears on
        `/metrics` once it was removed. The exception is `inc` followed by `dec`, which must go to the same child.
        """
        child = self._children.get(values)
        if child is None:
            child = self._new(values)
        return child

    def has(self, *values: str) -> bool:
        """Whether these label values have a series of their own; if not, each look-up of the child counts as overflow."""
        return values in self._children

    def remove(self, *values: str) -> None:
        """Remove one child and its series from `/metrics`. The overflow series stays, because it is shared."""
        with self._lock:
            if self._children.pop(values, None) is not None:
                self._metric.remove(*map(escape_surrogates, values))

    def total(self) -> float:
        """Sum over the children of a gauge or counter."""
        return float(sum(child._value.get() for child in tuple(self._children.values())))  # noqa: SLF001 - no other way

    def _new(self, values: tuple[str, ...]) -> Any:
        with self._lock:
            child = self._children.get(values)
            if child is not None:
                return child
            if len(values) != len(self._labels):
                self._metric.labels(*values)  # raises
            kept, gave_way = self._open.admitted(values)
            child = self._children.get(kept)
            if child is None and len(self._children) < self.max_series:
                child = self._children[kept] = self._metric.labels(*map(escape_surrogates, kept))
                self._widest = ""
            elif child is None:
                gave_way = self._widest = self._widest or self._label_with_most_values()
        if gave_way:
            self._overflowed(gave_way)
        return self._metric.labels(*(OVERFLOW,) * len(values)) if child is None else child

    def _label_with_most_values(self) -> str:
        numbers = [len(set(column)) for column in zip(*self._children, strict=True)]
        return self._labels[numbers.index(max(numbers))]


_M = TypeVar("_M", Family, Counter, Gauge, Histogram)


class _Declared(Generic[_M]):
    """A metric of the catalogue as an attribute of `Metrics`.

    It appears on `/metrics` with its first use: if a part is switched off, its gauges are absent, since 0 would be
    wrong.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, metrics: None, owner: type) -> Self: ...
    @overload
    def __get__(self, metrics: "Metrics", owner: type) -> _M: ...
    def __get__(self, metrics: "Metrics | None", owner: type) -> Any:
        if metrics is None:
            return self
        # from now on the instance's attribute hides this descriptor
        return metrics.__dict__.setdefault(self._attribute, metrics.declared(self.name))


class SettledRegistry(CollectorRegistry):
    """A registry that calls `settle` before it is read, so that its metrics count what has happened."""

    def __init__(self) -> None:
        """Settle nothing yet."""
        super().__init__()
        self.settle: Callable[[], object] = bool

    def collect(self) -> Iterable[Any]:
        """All metrics, up to date."""
        self.settle()
        return super().collect()


class Metrics:
    """All metrics of one `Telemetry`, on one registry. Attributes are the catalogue's names without prefix and unit."""

    request_duration: _Declared[Family] = _Declared(_REQUEST_DURATION)
    active_requests: _Declared[Family] = _Declared("http_server_active_requests")
    request_body_size: _Declared[Family] = _Declared("http_server_request_body_size_bytes")
    response_body_size: _Declared[Family] = _Declared("http_server_response_body_size_bytes")
    time_to_first_byte: _Declared[Family] = _Declared("fastperf_request_time_to_first_byte_seconds")
    request_db_statements: _Declared[Family] = _Declared("fastperf_request_db_statements")
    request_time: _Declared[Family] = _Declared("fastperf_request_time_seconds_total")
    request_await: _Declared[Family] = _Declared("fastperf_request_await_seconds_total")
    middleware_self_time: _Declared[Family] = _Declared("fastperf_middleware_self_time_seconds")
    middlewares: _Declared[Family] = _Declared("fastperf_middlewares")
    websocket_active_connections: _Declared[Gauge] = _Declared("fastperf_websocket_active_connections")
    websocket_message_spans_dropped: _Declared[Counter] = _Declared("fastperf_websocket_message_spans_dropped_total")
    websocket_connection_duration: _Declared[Family] = _Declared("fastperf_websocket_connection_duration_seconds")

    db_operation_duration: _Declared[Family] = _Declared("db_client_operation_duration_seconds")
    pool_count: _Declared[Family] = _Declared("db_client_connection_count")
    pool_max: _Declared[Family] = _Declared("db_client_connection_max")
    pool_pending_requests: _Declared[Family] = _Declared("db_client_connection_pending_requests")
    pool_wait_time: _Declared[Family] = _Declared("db_client_connection_wait_time_seconds")
    pool_use_time: _Declared[Family] = _Declared("db_client_connection_use_time_seconds")
    pool_create_time: _Declared[Family] = _Declared("db_client_connection_create_time_seconds")
    pool_timeouts: _Declared[Family] = _Declared("db_client_connection_timeouts_total")

    http_client_duration: _Declared[Family] = _Declared("http_client_request_duration_seconds")

    loop_lag: _Declared[Histogram] = _Declared("fastperf_event_loop_lag_seconds")
    loop_busy: _Declared[Counter] = _Declared("fastperf_event_loop_busy_seconds_total")
    loop_utilization: _Declared[Gauge] = _Declared("fastperf_event_loop_utilization_ratio")
    loop_tasks: _Declared[Gauge] = _Declared("fastperf_event_loop_tasks")
    loop_blocked: _Declared[Family] = _Declared("fastperf_event_loop_blocked_seconds")
    threadpool_limit: _Declared[Gauge] = _Declared("fastperf_threadpool_limit")
    threadpool_borrowed: _Declared[Gauge] = _Declared("fastperf_threadpool_borrowed")
    threadpool_waiting: _Declared[Gauge] = _Declared("fastperf_threadpool_waiting")
    threadpool_wait: _Declared[Histogram] = _Declared("fastperf_threadpool_wait_seconds")

    cpu_wait: _Declared[Counter] = _Declared("fastperf_cpu_wait_seconds_total")
    cpu_periods: _Declared[Counter] = _Declared("fastperf_cpu_periods_total")
    cpu_throttled_periods: _Declared[Counter] = _Declared("fastperf_cpu_throttled_periods_total")
    cpu_throttled_seconds: _Declared[Counter] = _Declared("fastperf_cpu_throttled_seconds_total")

    memory_unique: _Declared[Gauge] = _Declared("fastperf_memory_unique_bytes")
    memory_resident: _Declared[Gauge] = _Declared("fastperf_memory_resident_bytes")
    memory_limit: _Declared[Gauge] = _Declared("fastperf_memory_limit_bytes")
    memory_headroom: _Declared[Gauge] = _Declared("fastperf_memory_headroom_bytes")
    gc_pause: _Declared[Family] = _Declared("fastperf_gc_pause_seconds")

    cache_hits: _Declared[Family] = _Declared("fastperf_cache_hits_total")
    cache_misses: _Declared[Family] = _Declared("fastperf_cache_misses_total")
    cache_evictions: _Declared[Family] = _Declared("fastperf_cache_evictions_total")
    cache_size: _Declared[Family] = _Declared("fastperf_cache_size")
    cache_max_size: _Declared[Family] = _Declared("fastperf_cache_max_size")

    findings: _Declared[Family] = _Declared("fastperf_findings_total")
    findings_dropped: _Declared[Family] = _Declared("fastperf_findings_dropped_total")
    findings_suppressed: _Declared[Family] = _Declared("fastperf_findings_suppressed_total")
    explains: _Declared[Family] = _Declared("fastperf_explain_total")

    spans: _Declared[Family] = _Declared("fastperf_spans_total")
    traces_kept: _Declared[Family] = _Declared("fastperf_traces_kept_total")
    kept_spans_lost: _Declared[Counter] = _Declared("fastperf_kept_spans_lost_total")
    spans_queued: _Declared[Gauge] = _Declared("fastperf_spans_queued")
    export_failing: _Declared[Gauge] = _Declared("fastperf_export_failing_seconds")
    telemetry_errors: _Declared[Family] = _Declared("fastperf_telemetry_errors_total")
    build_info: _Declared[Family] = _Declared("fastperf_build_info")
    workers: _Declared[Gauge] = _Declared("fastperf_workers")
    workers_silent: _Declared[Gauge] = _Declared("fastperf_workers_silent")

    def __init__(
        self,
        *,
        max_series: int = 2000,
        buckets: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
        request_labels: tuple[str, ...] = (),
    ) -> None:
        """Declare no metric yet.

        Args:
            max_series: The limit of label sets for each.
            buckets: Upper bounds of histograms by name, in place of the catalogue's.
            request_labels: Labels that the application adds to the durations of requests.
        """
        self._settled = SettledRegistry()
        self.registry: CollectorRegistry = self._settled
        self._max_series = max_series
        self._bounds = buckets
        #: name of a metric -> labels that the application adds to it
        self.own_labels: Mapping[str, tuple[str, ...]] = {_REQUEST_DURATION: request_labels}
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._by_name: dict[str, Any] = {}
        self._refreshers: list[Callable[[], None]] = []
        self._overflow = _declare(_BY_NAME["fastperf_metric_overflow_total"], self.registry)
        GCCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        ProcessCollector(registry=self.registry)
        on_fork(after_in_child=self._after_in_child)

    def declared(self, name: str) -> Any:
        """Return a metric of the catalogue by its name; a `Family` if it has labels. The first call declares it."""
        with self._lock:
            if name not in self._by_name:
                self._by_name[name] = self._new(_BY_NAME[name])
            return self._by_name[name]

    def _after_in_child(self) -> None:
        """Count from 0 in a forked child: what its parent has counted must not count once for each worker.

        The locks are new, since a thread that has not come along may have held them.
        """
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        for collector in tuple(self.registry._collector_to_names):  # noqa: SLF001 - there is no other list of them
            declared = declaration_of(collector)
            if declared is not None:
                collector._lock = threading.Lock()  # type: ignore[attr-defined]  # noqa: SLF001
                children = collector._metrics.values() if declared.labels else (collector,)  # type: ignore[attr-defined]  # noqa: SLF001
                for child in tuple(children):
                    _reset(child, to_zero=declared.kind != "gauge")

    def before_reading(self, settle: Callable[[], None]) -> None:
        """Call `settle` before any metric is read, so that it counts what has happened. On any thread."""
        self._settled.settle = settle

    def on_refresh(self, refresh: Callable[[], None]) -> Callable[[], None]:
        """Call `refresh` before each exposition, so that it sets its gauges; returns the function that undoes this.

        It is called on a thread other than the event loop's, one call at a time, and may raise.
        """
        self._refreshers.append(refresh)
        return lambda: self._refreshers.remove(refresh)

    def refresh(self) -> Iterator[Exception]:
        """Update the gauges. Yields the errors of those that fail, and continues."""
        self._settled.settle()
        for refresh in tuple(self._refreshers):
            try:
                with self._refreshing:
                    refresh()
            except Exception as error:  # noqa: BLE001 - one bad gauge must not cost the whole page
                yield error

    def samples(self, failed: Callable[[Exception], None]) -> Iterator[tuple[str, dict[str, str], float]]:
        """Name, labels and value of all series on `/metrics`. Updates the gauges first, which blocks for some ms."""
        for error in self.refresh():
            failed(error)
        for family in self.registry.collect():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def count_overflow(self, metric: str, label: str) -> None:
        """Count an observation that loses the value of a label."""
        self._overflow.labels(metric, label).inc()

    def _new(self, metric: Metric) -> Any:
        bounds = self._bounds.get(metric.name)
        own = self.own_labels.get(metric.name, ())
        given = replace(metric, buckets=metric.buckets if bounds is None else bounds, labels=metric.labels + own)
        declared = _declare(given, self.registry)
        if not metric.labels:
            return declared

        def overflowed(label: str) -> None:
            self.count_overflow(metric.name, label)

        return Family(declared, metric.labels, self._max_series, overflowed, own)


def _reset(child: Any, *, to_zero: bool) -> None:
    values = (child._sum, *child._buckets) if isinstance(child, _FastHistogram) else (child._value,)  # noqa: SLF001
    for value in values:
        value._lock = threading.Lock()  # noqa: SLF001
        if to_zero:
            value._value, value._exemplar = 0.0, None  # noqa: SLF001


def _declare(metric: Metric, registry: CollectorRegistry) -> Any:
    match metric.kind:
        case "counter":
            return _FastCounter(metric.name, metric.help, metric.labels, unit=metric.unit, registry=registry)
        case "gauge":
            return _FastGauge(metric.name, metric.help, metric.labels, unit=metric.unit, registry=registry)
        case "histogram":
            return _FastHistogram(
                metric.name, metric.help, metric.labels, unit=metric.unit, buckets=metric.buckets, registry=registry
            )
