"""Metrics of several workers are added up: what lasts for ever, gauges of the living only."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Summary
from prometheus_client.core import GaugeMetricFamily

from otel_fastperf.exposition import reading
from otel_fastperf.exposition.merging import Sum, folded
from otel_fastperf.exposition.reading import read_metrics
from otel_fastperf.exposition.series import read, written
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def told(metrics: Metrics, *, default_registry: bool = False) -> bytes:
    """A worker's snapshot."""
    return written(read_metrics(metrics, Guard(pytest.fail), bool, default_registry=default_registry), bool)


def merged(*living: bytes, ended: bytes = b"") -> Values:
    """The values that a page shows."""
    total = Sum()
    for number, body in enumerate(living):
        total.add(read(body, bool), str(number), bool)
    total.add(read(ended, bool), None, bool)
    return {
        (name, tuple(sorted(labels.items()))): value
        for series in total.families.values()
        for name, labels, value, _, _ in series.samples()
    }


def worker(fill: Callable[[Metrics], object]) -> bytes:
    metrics = Metrics()
    fill(metrics)
    return told(metrics)


def test_counters_and_histograms_are_summed_and_survive_their_worker() -> None:
    def fill(metrics: Metrics) -> None:
        metrics.cache_hits.child("prices").inc(2)
        metrics.loop_lag.observe(0.002)
        metrics.gc_pause.child("2").observe(0.02)

    values = merged(worker(fill), worker(fill), ended=folded(folded(b"", worker(fill)), worker(fill)))
    assert values["fastperf_cache_hits_total", (("cache", "prices"),)] == 8
    assert values["fastperf_event_loop_lag_seconds_count", ()] == 4
    assert values["fastperf_event_loop_lag_seconds_bucket", (("le", "0.0025"),)] == 4
    assert values["fastperf_gc_pause_seconds_sum", (("generation", "2"),)] == pytest.approx(0.08)


def test_gauges_are_those_of_the_living_by_sum_highest_lowest_or_label() -> None:
    def fill(size: float) -> Callable[[Metrics], None]:
        def set_gauges(metrics: Metrics) -> None:
            metrics.workers.set(1)
            metrics.memory_limit.set(size)
            metrics.memory_headroom.set(size)
            metrics.loop_utilization.set(size)

        return set_gauges

    values = merged(worker(fill(1)), worker(fill(2)), ended=folded(b"", worker(fill(3))))
    assert values["fastperf_workers", ()] == 2
    assert values["fastperf_memory_limit_bytes", ()] == 2
    assert values["fastperf_memory_headroom_bytes", ()] == 1
    shares = {labels: value for (name, labels), value in values.items() if name.endswith("_utilization_ratio")}
    assert shares == {(("worker", "0"),): 1, (("worker", "1"),): 2}


def test_the_youngest_exemplar_of_a_bucket_stays() -> None:
    def fill(trace: str) -> Callable[[Metrics], None]:
        return lambda metrics: metrics.loop_lag.observe(0.002, {"trace_id": trace})

    total = Sum()
    for number, body in enumerate((worker(fill("old")), worker(fill("young")))):
        total.add(read(body, bool), str(number), bool)
    (series,) = (each for each in total.families.values() if each.name == "fastperf_event_loop_lag_seconds")
    assert [e.labels["trace_id"] for _, _, _, _, e in series.samples() if e is not None] == ["young"]


def test_the_app_s_own_metrics_are_merged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector:
        def collect(self) -> list[GaugeMetricFamily]:
            return [GaugeMetricFamily("shop_depth", "Depth.", value=4)]

    registry = CollectorRegistry()
    monkeypatch.setattr(reading, "REGISTRY", registry)
    Counter("shop_orders", "Orders.", ["kind"], registry=registry).labels("new").inc(3)
    Summary("shop_size", "Size.", registry=registry).observe(5)
    Gauge("shop_carts", "Carts.", registry=registry, multiprocess_mode="livesum").set(7)
    registry.register(Collector())
    body = told(Metrics(), default_registry=True)
    values = merged(body, body, ended=folded(b"", body))
    assert values["shop_orders_total", (("kind", "new"),)] == 9
    assert values["shop_size_sum", ()] == 15
    assert values["shop_carts", ()] == 14
    assert values["shop_depth", (("worker", "0"),)] == 4
