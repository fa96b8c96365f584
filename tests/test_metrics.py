"""`/metrics` shows the catalogue, and a family is bounded and thread-safe."""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from otel_fastperf.internals.open_labels import OVERFLOW
from otel_fastperf.metrics import CATALOGUE, Family, Metric, Metrics
from tests.filled import filled

ATTRIBUTES: Final = {
    declared.name: attribute for attribute, declared in vars(Metrics).items() if hasattr(declared, "__set_name__")
}
OURS: Final = [metric for metric in CATALOGUE if metric.source != "prometheus"]
LINUX: Final = pytest.mark.skipif(sys.platform != "linux", reason="prometheus_client reads process_* from /proc")


def families(metrics: Metrics) -> dict[str, Any]:
    """The families on the page, under the catalogue's names."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family for family in metrics.registry.collect()
    }


def overflow(metrics: Metrics, name: str) -> float:
    """Observations of the metric that lost a label value."""
    samples = families(metrics)["fastperf_metric_overflow_total"].samples
    return sum(float(each.value) for each in samples if each.labels["metric"] == name and each.name.endswith("_total"))


# the catalogue


@LINUX
def test_the_live_page_has_the_families_of_the_catalogue_and_no_others() -> None:
    assert set(families(filled(Metrics()))) == {metric.name for metric in CATALOGUE}


@LINUX
@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_a_family_on_the_page_matches_the_catalogue(metric: Metric) -> None:
    family = families(filled(Metrics()))[metric.name]
    assert family.type == metric.kind
    assert family.documentation == metric.help
    if metric.source != "prometheus":
        assert family.unit == metric.unit
    labels = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert labels == set(metric.labels)
    bounds = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
    assert {float(bound) for bound in bounds} == ({*metric.buckets, float("inf")} if metric.buckets else set())


def test_an_unused_metric_is_not_on_the_page() -> None:
    metrics = Metrics()
    metrics.threadpool_limit.set(40)
    assert {name for name in families(metrics) if name.startswith(("fastperf_", "http_", "db_"))} == {
        "fastperf_threadpool_limit",
        "fastperf_metric_overflow_total",
    }


@pytest.mark.parametrize("metric", OURS, ids=lambda metric: metric.name)
def test_every_metric_has_an_attribute_of_its_kind(metric: Metric) -> None:
    if metric.name == "fastperf_metric_overflow_total":
        assert metric.name not in ATTRIBUTES
        return
    value = getattr(Metrics(), ATTRIBUTES[metric.name])
    kind = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}[metric.kind]
    assert isinstance(value, Family if metric.labels else kind)


def test_an_attribute_and_the_look_up_by_name_give_the_same_metric() -> None:
    metrics = Metrics()
    assert metrics.declared("fastperf_memory_limit_bytes") is metrics.memory_limit is metrics.memory_limit


#: the modules of opentelemetry-semantic-conventions with the names in the catalogue
CONVENTIONS: Final = tuple(
    f"opentelemetry.semconv.{name}"
    for name in (
        "metrics.http_metrics",
        "metrics.db_metrics",
        "_incubating.metrics.http_metrics",
        "_incubating.metrics.db_metrics",
        "attributes.http_attributes",
        "attributes.db_attributes",
        "attributes.error_attributes",
        "attributes.server_attributes",
        "attributes.url_attributes",
        "_incubating.attributes.db_attributes",
    )
)


@pytest.fixture(scope="module")
def convention_names() -> set[str]:
    """Names of the conventions, mapped to Prometheus by OpenTelemetry's rule: dots become underscores."""
    values = [value for name in CONVENTIONS for value in vars(importlib.import_module(name)).values()]
    return {value.replace(".", "_") for value in values if isinstance(value, str)}


@pytest.mark.parametrize("metric", [each for each in OURS if each.source == "semconv"], ids=lambda metric: metric.name)
def test_names_and_labels_follow_the_semantic_conventions(metric: Metric, convention_names: set[str]) -> None:
    name = metric.name.removesuffix("_total").removesuffix(f"_{metric.unit}")
    assert name in convention_names
    assert set(metric.labels) <= convention_names


# families


def test_the_same_label_values_give_the_same_child() -> None:
    metrics = Metrics()
    assert metrics.pool_max.child("main") is metrics.pool_max.child("main")
    assert metrics.pool_max.child("main") is not metrics.pool_max.child("replica")


def test_label_values_over_the_limit_share_the_overflow_series() -> None:
    metrics = Metrics(max_series=2)
    for pool in ("a", "b", "c", "d"):
        metrics.pool_timeouts.child(pool).inc()
    samples = {
        sample.labels["db_client_connection_pool_name"]: sample.value
        for sample in families(metrics)["db_client_connection_timeouts_total"].samples
        if sample.name.endswith("_total")
    }
    assert samples == {"a": 1, "b": 1, OVERFLOW: 2}


def test_each_observation_in_the_overflow_series_is_counted_under_its_metric() -> None:
    metrics = Metrics(max_series=1)
    for _ in range(3):
        metrics.pool_max.child("a")
        metrics.pool_max.child("b")
    assert overflow(metrics, "db_client_connection_max") == 3


def test_a_family_of_gauges_has_a_total() -> None:
    family = Metrics().active_requests
    assert family.total() == 0
    family.child("GET", "http").inc()
    family.child("POST", "http").inc(2)
    assert family.total() == 3


def test_removing_a_child_frees_its_place() -> None:
    metrics = Metrics(max_series=1)
    metrics.pool_max.child("a").set(5)
    metrics.pool_max.remove("a")
    metrics.pool_max.child("b").set(6)
    (sample,) = families(metrics)["db_client_connection_max"].samples
    assert sample.labels == {"db_client_connection_pool_name": "b"}
    assert overflow(metrics, "db_client_connection_max") == 0


def test_removing_an_unknown_or_overflowed_child_changes_nothing() -> None:
    metrics = Metrics(max_series=1)
    for pool in ("a", "b"):
        metrics.pool_max.child(pool).set(1)
    metrics.pool_max.remove("b")
    metrics.pool_max.remove("never seen")
    assert len(families(metrics)["db_client_connection_max"].samples) == 2


def test_a_wrong_number_of_label_values_is_an_error_even_over_the_limit() -> None:
    metrics = Metrics(max_series=1)
    metrics.pool_max.child("a")
    with pytest.raises(ValueError, match="label"):
        metrics.pool_max.child("a", "b")


def test_a_label_value_that_is_not_valid_unicode_is_escaped() -> None:
    metrics = Metrics()
    metrics.pool_max.child("caf\udce9").set(1)
    (sample,) = families(metrics)["db_client_connection_max"].samples
    assert sample.labels == {"db_client_connection_pool_name": "caf\\udce9"}
    metrics.pool_max.remove("caf\udce9")
    assert families(metrics)["db_client_connection_max"].samples == []


def at_once(threads: int, work: Callable[[], object]) -> list[Any]:
    """Run `work` in that many threads, all of which start it at once."""
    barrier = threading.Barrier(threads)

    def run() -> object:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(threads)]]


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_frequent_switches")
def test_threads_that_request_the_last_free_series_at_once_all_get_it() -> None:
    for _ in range(100):
        metrics = Metrics(max_series=1)
        children = at_once(4, lambda metrics=metrics: metrics.pool_max.child("a"))  # type: ignore[misc]
        assert len({id(child) for child in children}) == 1
        assert overflow(metrics, "db_client_connection_max") == 0


@pytest.mark.usefixtures("_frequent_switches")
def test_new_label_values_from_several_threads_stay_within_the_limit() -> None:
    metrics = Metrics(max_series=10)
    numbers = iter(range(1000))
    at_once(4, lambda: [metrics.pool_timeouts.child(str(next(numbers))).inc() for _ in range(100)])
    samples = families(metrics)["db_client_connection_timeouts_total"].samples
    values = [sample.value for sample in samples if sample.name.endswith("_total")]
    assert len(values) == 11
    assert sum(values) == 400


@pytest.mark.usefixtures("_frequent_switches")
def test_threads_that_first_use_a_metric_at_once_get_the_same_object() -> None:
    for _ in range(100):
        metrics = Metrics()
        gauges = at_once(4, lambda metrics=metrics: metrics.loop_tasks)  # type: ignore[misc]
        assert len({id(gauge) for gauge in gauges}) == 1


# histograms


@pytest.mark.parametrize("amount", [-1.0, 0.0, 0.0009, 0.001, 0.0011, 0.1, 9.9, 10.0, 10.1, float("inf")])
def test_a_histogram_counts_like_one_of_prometheus_client(amount: float) -> None:
    metric = next(metric for metric in CATALOGUE if metric.name == "db_client_operation_duration_seconds")
    metrics, registry = Metrics(), CollectorRegistry()
    theirs = Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    values, exemplar = ("sqlite", "shop", "SELECT", ""), {"trace_id": "1", "span_id": "2"}
    metrics.db_operation_duration.child(*values).observe(amount, exemplar)
    theirs.labels(*values).observe(amount, exemplar)
    assert counted(metrics.registry, metric.name) == counted(registry, metric.name)


def counted(registry: CollectorRegistry, name: str) -> list[tuple[str, dict[str, str], float, object]]:
    """The samples and exemplars of a histogram, without times."""
    return [
        (sample.name, sample.labels, sample.value, sample.exemplar and (sample.exemplar.labels, sample.exemplar.value))
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(name) and not sample.name.endswith("_created")
    ]


# refreshing


def test_a_failing_refresher_is_reported_and_the_others_run() -> None:
    metrics = Metrics()
    ran = []

    def fails() -> None:
        message = "no such file"
        raise OSError(message)

    metrics.on_refresh(fails)
    metrics.on_refresh(lambda: ran.append("second"))
    assert [str(error) for error in metrics.refresh()] == ["no such file"]
    assert ran == ["second"]


def test_a_refresher_can_be_removed() -> None:
    metrics = Metrics()
    ran: list[str] = []
    undo = metrics.on_refresh(lambda: ran.append("first"))
    undo()
    assert list(metrics.refresh()) == []
    assert ran == []


def test_samples_are_plain_and_up_to_date() -> None:
    metrics = Metrics()
    metrics.spans.child("exported").inc(3)
    metrics.on_refresh(lambda: metrics.threadpool_limit.set(40))
    metrics.on_refresh(lambda: 1 / 0)  # type: ignore[arg-type]
    failures: list[Exception] = []
    samples = list(metrics.samples(failures.append))
    assert ("fastperf_spans_total", {"outcome": "exported"}, 3.0) in samples
    assert ("fastperf_threadpool_limit", {}, 40.0) in samples
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_counts_from_zero() -> None:
    """A preloaded app's counts would count once for each worker."""
    metrics = Metrics()
    metrics.cache_hits.child("prices").inc(3)
    metrics.loop_lag.observe(1.0)
    metrics.cache_size.child("prices").set(7)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        metrics.cache_hits.child("prices").inc()
        names = ("fastperf_cache_hits_total", "fastperf_event_loop_lag_seconds_count", "fastperf_cache_size")
        read = {name: value for name, _, value in metrics.samples(print)}
        os.write(writer, " ".join(str(read[name]) for name in names).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 100) == b"1.0 0.0 7.0"
    assert metrics.cache_hits.total() == 3
    os.close(reader)
    os.close(writer)
