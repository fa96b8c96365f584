"""The stack's main job: the demo under load on PostgreSQL, with every server and every shipped file.

All tests share one run of about two minutes, and read from the servers' APIs what a person would look at.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from demo.catalogue import CATALOGUE as BOTTLENECKS
from demo.seed import clear
from otel_fastperf.metrics import CATALOGUE
from tests.demo.clients import call_everything
from tests.deploy.alertmanager import Alertmanager, Webhook, stack_alertmanager
from tests.deploy.collector import running_collector
from tests.deploy.jaeger import FOUND_WITHIN_SECONDS, Jaeger, JaegerSpan, running_jaeger
from tests.deploy.panels import Window, answered, flat, has_data, titles
from tests.deploy.prometheus import stack_prometheus
from tests.deploy.queries import of
from tests.deploy.servers import GRAFANA, needs
from tests.deploy.shown import shown
from tests.deploy.spans import Sent
from tests.postgresql import postgresql_url
from tests.prometheus import Prometheus
from tests.serving import Command, free_port, run_server, wait_until

__all__ = ["postgresql_url"]

pytestmark = [needs("collector", "jaeger", "prometheus", "alertmanager"), pytest.mark.timeout(400)]

SERVICE: Final = "shop"
#: requests whose trace is read back; the client sends one of each and chooses the trace id
ROUTES: Final = ("/users/1", "/users/1/orders", "/products", "/orders/1", "/reports/sales", "/slow/n-plus-one")
ROUNDS: Final = 10
#: `def` endpoints, more concurrent requests than threads
QUEUE: Final = ("/slow/threadpool-wait",) * 6


@dataclass(frozen=True)
class Servers:
    """The servers of the stack, after the load."""

    shop: Command
    jaeger: Jaeger
    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook
    #: {trace id: path} of the requests with a chosen trace id
    asked: Mapping[str, str]
    started: float


@pytest.fixture(scope="module")
def servers(postgresql_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("stack")
    port, shop_port = free_port(), free_port()
    with ExitStack() as stack:
        webhook = stack.enter_context(Webhook())
        alertmanager = stack.enter_context(stack_alertmanager(folder, webhook, quick=True))
        jaeger = stack.enter_context(running_jaeger(folder, prometheus=port))
        collector = stack.enter_context(running_collector(folder, jaeger=jaeger.otlp_grpc_port, prometheus=port))
        prometheus = stack.enter_context(
            stack_prometheus(
                folder,
                apps={SERVICE: [f"127.0.0.1:{shop_port}"]},
                collector=f"127.0.0.1:{collector.ports.metrics}",
                jaeger=urlsplit(jaeger.metrics_url).netloc,
                alertmanager=alertmanager.address,
                port=port,
                quick=True,
            )
        )
        shop = stack.enter_context(
            run_server(
                ["uvicorn", "demo.app:app", "--port", "{port}", "--log-level", "warning"],
                log=folder / "shop.log",
                environment={
                    "DATABASE_URL": postgresql_url,
                    "OTEL_SERVICE_NAME": SERVICE,
                    "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.4.2",
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                },
                port=shop_port,
            )
        )
        prometheus.wait_until_up()
        started = time.time()
        collector.send([Sent("GET /healthz", kind="SERVER", attributes={"url.path": "/healthz"})])
        asked = asyncio.run(_load(shop.url))
        yield Servers(shop, jaeger, prometheus, alertmanager, webhook, asked, started)
    # the database is shared with other tests
    clear(make_url(postgresql_url))


async def _load(url: str) -> dict[str, str]:
    """Call every bottleneck and its twin under the load of a few shoppers, then send our requests one by one."""
    await call_everything(url)
    asked: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(ROUNDS):
            # a graph of rates needs several scrapes
            await asyncio.gather(*(client.get(path) for path in (*QUEUE, "/failures/before-response")))
            for path in ROUTES:
                trace_id = token_hex(16)
                answer = await client.get(path, headers={"traceparent": f"00-{trace_id}-{token_hex(8)}-01"})
                assert answer.status_code == 200, (path, answer.text)
                asked[trace_id] = path
    return asked


# Traces


def test_each_request_has_a_trace_in_jaeger_with_all_its_statements(servers: Servers) -> None:
    for trace_id, path in servers.asked.items():
        server, statements = _whole(servers.jaeger, trace_id)
        assert server.attributes["url.path"] == path
        assert server.service == SERVICE
        assert len(statements) == server.attributes["fastperf.db.query_count"] >= 1
        assert all(span.attributes["db.system.name"] == "postgresql" for span in statements)


def _whole(jaeger: Jaeger, trace_id: str) -> tuple[JaegerSpan, list[JaegerSpan]]:
    """The request's span and those of its statements, after all have arrived: they may come in two batches."""
    server = _server(jaeger, trace_id)
    count = server.attributes["fastperf.db.query_count"]
    statements: list[JaegerSpan] = wait_until(
        lambda: found if len(found := _statements(jaeger.trace(trace_id))) >= count else None,
        seconds=FOUND_WITHIN_SECONDS,
        what=f"trace {trace_id} has {count} statements",
    )
    return server, statements


def _server(jaeger: Jaeger, trace_id: str) -> JaegerSpan:
    """The request's span, which ends after its statements and so may come in a later batch."""
    found: JaegerSpan = wait_until(
        lambda: next((span for span in jaeger.trace(trace_id) if span.kind == "SERVER"), None),
        seconds=FOUND_WITHIN_SECONDS,
        what=f"trace {trace_id} has a SERVER span",
    )
    return found


def _statements(spans: list[JaegerSpan]) -> list[JaegerSpan]:
    """The statements' spans. The end of a transaction may have a span too, but no text."""
    return [span for span in spans if span.kind == "CLIENT" and "db.query.text" in span.attributes]


def test_the_trace_of_a_fault_has_its_finding(servers: Servers) -> None:
    trace_id = next(trace_id for trace_id, path in servers.asked.items() if path == "/slow/n-plus-one")
    server = _server(servers.jaeger, trace_id)
    assert "n_plus_one" in server.attributes["fastperf.findings"]


def test_the_monitor_tab_has_calls_and_latencies_of_each_route(servers: Servers) -> None:
    for what in ("calls", "latencies"):
        drawn = wait_until(lambda what=what: servers.jaeger.monitor(what, SERVICE), seconds=60, what=what)
        assert "GET /users/{user_id}" in drawn
        assert any(value > 0 for value in drawn["GET /users/{user_id}"])


def test_the_trace_of_an_exemplar_is_in_jaeger(servers: Servers) -> None:
    found = servers.prometheus.exemplars(f'http_server_request_duration_seconds_bucket{{job="{SERVICE}"}}')
    ids = {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}
    assert len(ids) > 5
    for trace_id in sorted(ids):
        server = _server(servers.jaeger, trace_id)
        assert server.service == SERVICE


# Alerts


@pytest.fixture(scope="module")
def alerts(servers: Servers) -> list[dict[str, Any]]:
    """The tickets that Alertmanager has, after each fault has one; the page about failures holds back the latest."""
    expected = {
        (one.kind, "" if one.kind in {"memory_growth", "cache_inefficient"} else one.faulty) for one in BOTTLENECKS
    }

    def told() -> list[dict[str, Any]]:
        return [one for one in servers.alertmanager.alerts() if one["labels"]["severity"] == "ticket"]

    def missing() -> set[tuple[str, str]]:
        return expected - {(one["labels"].get("kind", ""), one["labels"].get("http_route", "")) for one in told()}

    try:
        wait_until(lambda: not missing(), seconds=90)
    except AssertionError:
        pytest.fail(f"no alert reached Alertmanager for {sorted(missing())}")
    return told()


@pytest.mark.parametrize("bottleneck", BOTTLENECKS, ids=lambda one: one.name)
def test_each_fault_has_an_alert_and_its_twin_has_none(bottleneck: Any, alerts: list[dict[str, Any]]) -> None:
    routes = {one["labels"].get("http_route", "") for one in alerts if one["labels"].get("kind") == bottleneck.kind}
    assert routes & {bottleneck.faulty, ""}
    assert bottleneck.fixed not in {one["labels"].get("http_route", "") for one in alerts}


def test_failures_page_and_tickets_are_sent(servers: Servers) -> None:
    """The load has as many failures as a page needs."""

    def paged() -> set[str]:
        return {one["labels"]["alertname"] for one in servers.webhook.alerts("page")}

    wait_until(lambda: "FastperfAvailabilityBurn" in paged(), what="a page")
    assert paged() <= {"FastperfAvailabilityBurn", "FastperfLatencyBurn"}
    assert servers.webhook.alerts("ticket")


def test_the_links_of_an_alert_are_not_broken(servers: Servers, alerts: list[dict[str, Any]]) -> None:
    assert alerts
    for runbook, name in {(one["annotations"]["runbook_url"], one["labels"]["alertname"]) for one in alerts}:
        with urlopen(runbook, timeout=10) as response:
            assert name in response.read().decode()
    for one in alerts:
        parts = urlsplit(one["annotations"]["dashboard_url"])
        board = _dashboards()[parts.path.removeprefix("/d/")]
        variables = {f"var-{one['name']}" for one in board["templating"]["list"]}
        query = parse_qs(parts.query)
        assert set(query) <= variables, one
        # what a busy machine may raise, such as PrometheusTargetDown, may be about the stack, not about a service
        is_about_the_stack = parts.path == "/d/fastperf-telemetry" and "var-job" not in query
        assert query.get("var-job", []) == ([] if is_about_the_stack else [SERVICE]), one


def test_telemetry_itself_had_no_errors_and_lost_nothing(alerts: list[dict[str, Any]]) -> None:
    told = [one for one in alerts if one["labels"]["alertname"].startswith("FastperfTelemetry")]
    assert told == []


# Metrics


def test_every_rule_is_evaluated_and_every_recording_has_data(servers: Servers) -> None:
    wait_until(lambda: not _broken(servers.prometheus), what="every rule is evaluated")
    without = {name for name in _recordings(servers.prometheus) if not servers.prometheus.query(name)}
    # a run without failures has no data for these
    assert without <= {
        "job_pool:db_client_connection_timeouts:increase15m",
        "job_part:fastperf_telemetry_errors:increase15m",
        "job_metric_label:fastperf_metric_overflow:increase15m",
        "job_instance_exporter:otelcol_exporter_send_failed_spans:rate5m",
        "job_instance_exporter:otelcol_exporter_enqueue_failed_spans:rate2m",
        "job_instance_operation:jaeger_storage_errors:rate5m",
    }


def test_names_with_dots_are_stored_with_underscores(servers: Servers) -> None:
    """Queries use the names that curl shows; Prometheus 3 would accept the dots that the collector offers."""
    assert servers.prometheus.value("otelcol_processor_filter_spans_filtered") == 1
    assert servers.prometheus.query('{__name__=~".*[.].*"}') == []


def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    with urlopen(f"{prometheus.url}/api/v1/rules", timeout=10) as response:
        groups = json.load(response)["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _broken(prometheus: Prometheus) -> list[str]:
    return [rule["name"] for rule in _rules(prometheus) if rule["health"] != "ok"]


def _recordings(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in _rules(prometheus) if rule["type"] == "recording"}


def _dashboards() -> dict[str, dict[str, Any]]:
    boards = [json.loads(path.read_text()) for path in (GRAFANA / "dashboards").glob("*.json")]
    return {board["uid"]: board for board in boards}


_NOTHING: Final = "nothing of the kind happens in a run that goes well"
_NO_LIMIT: Final = "without a container's memory limit there is nothing to head for"
_NO_CPU_LIMIT: Final = "without a container's CPU limit there is nothing to use up"

#: queries of panels, by title and letter, that may be empty here, and why
EMPTY: Final[dict[str, str]] = {
    "Failed statements A": _NOTHING,
    "Pool timeouts A": _NOTHING,
    "Errors by part A": _NOTHING,
    "Observations without a series A": _NOTHING,
    "Overflow by metric and label A": _NOTHING,
    "Sent and failed B": _NOTHING,
    "Sent and failed C": _NOTHING,
    "Filtered and refused B": _NOTHING,
    "Failed rules A": _NOTHING,
    "Memory headroom A": _NO_LIMIT,
    "Memory of the process C": _NO_LIMIT,
    "Memory headroom, now and in four hours A": _NO_LIMIT,
    "Memory headroom, now and in four hours B": _NO_LIMIT,
    "Waiting for a processor B": _NO_CPU_LIMIT,
}


@pytest.mark.parametrize("uid", sorted(_dashboards()))
def test_every_query_of_a_dashboard_returns_data(servers: Servers, uid: str) -> None:
    board = _dashboards()[uid]
    end = time.time()
    window = Window(servers.started, end, {"job": SERVICE, "instance": ".+", "route": ".+", "method": ".+"})
    empty = [
        f"{panel['title']} {target['refId']}"
        for panel in flat(board)
        for target in panel.get("targets", ())
        if not has_data(servers.prometheus.url, target, window)
    ]
    assert [name for name in empty if name not in EMPTY] == []
    # the processes were started before the load
    longer = Window(servers.started - 600, end, window.variables)
    marks = board["annotations"]["list"]
    assert [one["name"] for one in marks if not has_data(servers.prometheus.url, one, longer)] == []


@needs("grafana-data")
@pytest.mark.parametrize("uid", sorted(_dashboards()))
def test_tables_and_names_of_series_are_as_grafana_shows_these_answers(servers: Servers, uid: str) -> None:
    window = Window(servers.started, time.time(), {"job": SERVICE, "instance": ".+", "route": ".+", "method": ".+"})
    panels = [panel for panel in flat(_dashboards()[uid]) if panel.get("targets")]
    found = [
        {target["refId"]: answered(servers.prometheus.url, target, window) for target in panel["targets"]}
        for panel in panels
    ]
    for panel, answers, fields in zip(panels, found, shown([*zip(panels, found, strict=True)]).panels, strict=True):
        names = [field.name for field in fields]
        if panel["type"] != "table":
            # not a list of labels; routes have braces too
            assert not [name for name in names if not name.strip() or '="' in name], panel["title"]
        elif all(answers.values()):
            assert names == titles(panel)


@pytest.mark.parametrize("question", of("promql"))
def test_every_query_of_the_page_about_queries_returns_data(servers: Servers, question: str) -> None:
    """With half a minute in place of a day, and the young counters of a run of two minutes in those of an hour."""
    text = of("promql")[question].replace("offset 1d", "offset 30s").replace("[1d]", "[30s]")
    found = servers.prometheus.query(text)
    assert found or question in UNANSWERED


#: questions of docs/queries.md that have no answer here, and why
UNANSWERED: Final[dict[str, str]] = {
    "Which findings are new today?": "all of them are as old as the run",
}


# Catalogue


def test_the_service_exposes_the_metrics_of_the_catalogue(servers: Servers) -> None:
    families = {family.name: family for family in text_string_to_metric_families(servers.shop.get("/metrics").text)}
    declared = {metric.name.removesuffix("_total"): metric for metric in CATALOGUE}
    assert set(families) <= {*declared, *(f"{name}_created" for name in declared)}
    for name, metric in declared.items():
        if family := families.get(name):
            assert family.type == metric.kind
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels), sample
            if metric.buckets:
                bounds = {float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")}
                assert bounds == {*metric.buckets, float("inf")}
    assert declared.keys() - families.keys() <= {name.removesuffix("_total") for name in ABSENT}


#: metrics of the catalogue that the demo may lack, and why
ABSENT: Final[dict[str, str]] = {
    **dict.fromkeys(
        (
            "fastperf_kept_spans_lost_total",
            "fastperf_request_time_to_first_byte_seconds",
            "fastperf_traces_kept_total",
            "fastperf_websocket_message_spans_dropped_total",
        ),
        "a setting that is off by default",
    ),
    "db_client_connection_timeouts_total": _NOTHING,
    "fastperf_cache_evictions_total": _NOTHING,
    "fastperf_findings_dropped_total": _NOTHING,
    "fastperf_findings_suppressed_total": _NOTHING,
    "fastperf_metric_overflow_total": _NOTHING,
    "fastperf_telemetry_errors_total": _NOTHING,
    "fastperf_memory_headroom_bytes": _NO_LIMIT,
    "fastperf_memory_limit_bytes": _NO_LIMIT,
    "fastperf_cpu_periods_total": _NO_CPU_LIMIT,
    "fastperf_cpu_throttled_periods_total": _NO_CPU_LIMIT,
    "fastperf_cpu_throttled_seconds_total": _NO_CPU_LIMIT,
    "fastperf_websocket_active_connections": "the demo has no websocket",
    "fastperf_websocket_connection_duration_seconds": "the demo has no websocket",
}
