"""The main job end to end, on SQLite and PostgreSQL: spans and metrics of the demo under load arrive and agree.

An OTLP endpoint receives the spans of the shop, and a real Prometheus scrapes its metrics.
"""

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.otlp import ReceivedSpan, Receiver
from tests.postgresql import postgresql_url, with_driver
from tests.prometheus import Prometheus, running_prometheus
from tests.serving import Command, run_server, wait_until

__all__ = ["postgresql_url"]

SECONDS_OF_LOAD = 8


class Run:
    """The shop under load, with its Prometheus and its OTLP receiver."""

    def __init__(self, shop: Command, prometheus: Prometheus, receiver: Receiver) -> None:
        self.shop = shop
        self.prometheus = prometheus
        self.receiver = receiver

    def spans(self, kind: str) -> list[ReceivedSpan]:
        """Return the spans of this kind that have arrived so far."""
        return [span for span in self.receiver.spans if span.kind == kind]

    def statements(self) -> list[ReceivedSpan]:
        """Return the spans of statements that have arrived so far: CLIENT spans that are no calls of other services."""
        return [span for span in self.spans("CLIENT") if not any(name.startswith("http.") for name in span.attributes)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run for all tests below."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_SERVICE_NAME": "shop"}
    if request.param == "postgresql":
        environment["DATABASE_URL"] = with_driver(request.getfixturevalue("postgresql_url"), "asyncpg")
    with Receiver() as receiver:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        command = ["demo", "serve", "--port", "{port}"]
        with run_server(command, log=folder / "shop.log", environment=environment) as shop:
            target = urlsplit(shop.url).netloc
            scrape = [{"job_name": "shop", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]
            with running_prometheus(folder, scrape) as prometheus:
                prometheus.wait_until_up()
                served = "sum(http_server_request_duration_seconds_count)"
                wait_until(lambda: (prometheus.value(served) or 0) > 100, seconds=60, what="100 requests are scraped")
                wait_until(
                    lambda: (prometheus.value(f"count_over_time(({served})[1m:1s])") or 0) >= SECONDS_OF_LOAD,
                    seconds=60,
                    what="seconds of load",
                )
                yield Run(shop, prometheus, receiver)


def test_every_request_span_is_the_parent_of_its_statements(run: Run) -> None:
    # a statement's span may arrive in a batch before its request's
    wait_until(lambda: len(run.spans("SERVER")) > 100 and len(run.statements()) > 100, seconds=60, what="spans")
    servers = {span.span_id: span for span in run.spans("SERVER")}
    statements = [span for span in run.statements() if span.parent_id in servers]
    assert len(statements) > len(run.statements()) / 2
    for span in statements:
        assert span.trace_id == servers[span.parent_id].trace_id
    assert {span.resource["service.name"] for span in servers.values()} == {"shop"}
    assert {span.attributes["db.system.name"] for span in statements} <= {"sqlite", "postgresql"}


def test_no_span_contains_a_value_of_a_statement(run: Run) -> None:
    texts = {span.attributes["db.query.text"] for span in run.spans("CLIENT") if "db.query.text" in span.attributes}
    assert len(texts) > 5
    assert not [text for text in texts if re.search(r"'[^']+'", text)]


def test_prometheus_and_the_receiver_have_the_same_routes(run: Run) -> None:
    series = run.prometheus.query(
        "sum by (http_request_method, http_route) (http_server_request_duration_seconds_count)"
    )
    scraped = {
        f"{one['metric']['http_request_method']} {one['metric']['http_route']}"
        for one in series
        if one["metric"]["http_route"] != "unmatched"
    }
    received = Counter(span.name for span in run.spans("SERVER"))
    assert len(scraped) > 8
    assert scraped <= received.keys()
    assert not [name for name in received if re.search(r"/\d", name)], "a span is named by a path"


@pytest.mark.parametrize(
    "promql",
    [
        "sum by (http_route) (rate(http_server_request_duration_seconds_count[30s])) > 0",
        "histogram_quantile(0.99, sum by (le) (rate(http_server_request_duration_seconds_bucket[30s]))) > 0",
        "sum(rate(db_client_operation_duration_seconds_count{db_operation_name='SELECT'}[30s])) > 0",
        "sum(rate(fastperf_request_db_statements_sum[30s])) / sum(rate(fastperf_request_db_statements_count[30s])) > 0",
        "sum(db_client_connection_count) > 0",
        "sum(db_client_connection_max) > 0",
        "sum(rate(db_client_connection_wait_time_seconds_count[30s])) > 0",
        "sum(rate(db_client_connection_use_time_seconds_count[30s])) > 0",
        "histogram_quantile(0.99, rate(fastperf_event_loop_lag_seconds_bucket[30s])) > 0",
        "rate(fastperf_event_loop_busy_seconds_total[30s]) > 0",
        "rate(fastperf_event_loop_busy_seconds_total[30s]) <= 1.1",
        "fastperf_event_loop_utilization_ratio <= 1",
        "fastperf_event_loop_tasks > 0",
        "fastperf_threadpool_limit > 0",
        "process_resident_memory_bytes > 1e7",
        "fastperf_memory_unique_bytes > 1e7",
        "sum(rate(http_server_response_body_size_bytes_sum[30s])) > 0",
        "fastperf_build_info == 1",
        "fastperf_spans_total{outcome='exported'} > 100",
    ],
)
def test_a_query_has_an_answer(run: Run, promql: str) -> None:
    wait_until(lambda: run.prometheus.query(promql), seconds=30, what=promql)


def test_telemetry_counted_no_errors(run: Run) -> None:
    assert run.prometheus.value("sum(fastperf_telemetry_errors_total)") in {None, 0.0}
    assert run.prometheus.value("sum(fastperf_spans_total{outcome!='exported'})") in {None, 0.0}
    assert run.prometheus.value("sum(fastperf_metric_overflow_total)") in {None, 0.0}


def test_the_trace_of_an_exemplar_was_received(run: Run) -> None:
    exemplars = run.prometheus.exemplars("http_server_request_duration_seconds_bucket")
    named = {exemplar["labels"]["trace_id"] for series in exemplars for exemplar in series["exemplars"]}
    assert len(named) > 3
    wait_until(
        lambda: named & {span.trace_id for span in run.spans("SERVER")}, what="a trace of an exemplar is received"
    )


def test_every_counted_request_is_delivered_when_the_shop_is_stopped(run: Run) -> None:
    """Must be the last test, because it stops the shop."""
    page = run.shop.get("/metrics").text
    counted = sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("http_server_request_duration_seconds_count")
    )
    run.shop.stop()
    assert len(run.spans("SERVER")) >= counted
    assert len({span.span_id for span in run.spans("SERVER")}) == len(run.spans("SERVER"))
