"""A real Prometheus scrapes the page, on the app's port and on a separate port."""

from collections.abc import Iterator
from typing import Final

import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.samples import Exemplar
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from otel_fastperf.exposition import Exposition, serve_on_port
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from tests.filled import EXEMPLAR, filled
from tests.prometheus import Prometheus, running_prometheus
from tests.serving import free_port, serve, wait_until

TOKEN: Final = "correct-horse-battery"


class TooLongExemplar:
    """An exemplar above Prometheus' limit of 128 characters."""

    def describe(self) -> list[Metric]:
        """Return nothing; otherwise the registry would collect at once."""
        return []

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("shop_orders", "Orders.")
        family.add_sample("shop_orders_total", {}, 3, exemplar=Exemplar({"trace_id": "x" * 200}, 1))
        return [family]


@pytest.fixture(scope="module")
def _orders() -> Iterator[None]:
    collector = TooLongExemplar()
    REGISTRY.register(collector)
    yield
    REGISTRY.unregister(collector)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, _orders: None) -> Iterator[Prometheus]:
    metrics, settings = filled(Metrics()), MetricsSettings(bearer_token=SecretStr(TOKEN), port=free_port())
    exposition = Exposition(metrics, settings, Guard(print))
    app = Starlette(routes=[Route("/metrics", exposition)])
    with serve(app) as server, serve_on_port(exposition, settings):
        jobs = [
            {
                "job_name": job,
                "authorization": {"credentials": TOKEN},
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
            for job, port in (("app", server.port), ("port", settings.port))
        ]
        with running_prometheus(tmp_path_factory.mktemp("prometheus"), jobs) as running:
            running.wait_until_up()
            yield running


@pytest.mark.parametrize("job", ["app", "port"])
def test_the_target_is_up_and_its_values_are_stored(prometheus: Prometheus, job: str) -> None:
    query = 'http_server_request_duration_seconds_bucket{job="%s", le="0.5"}'
    wait_until(lambda: prometheus.value(query % job) == 1, what="the bucket is 1")
    assert prometheus.value(f'fastperf_spans_queued{{job="{job}"}}') == 1


def test_the_exemplar_of_a_slow_request_has_its_trace(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.exemplars("http_server_request_duration_seconds_bucket"), what="an exemplar")
    (series, *_) = prometheus.exemplars("http_server_request_duration_seconds_bucket")
    assert series["exemplars"][0]["labels"] == EXEMPLAR
    assert series["exemplars"][0]["value"] == "0.3"


def test_only_the_exemplar_that_is_too_long_is_lost(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.value('shop_orders_total{job="app"}') == 3, what="orders")
    assert prometheus.exemplars("shop_orders_total") == []


def test_the_page_is_compressed_and_complete(prometheus: Prometheus) -> None:
    assert prometheus.value('scrape_samples_scraped{job="app"}') == prometheus.value(
        'scrape_samples_scraped{job="port"}'
    )
    assert {target["lastError"] for target in prometheus.targets()} == {""}
