"""Jaeger's configurations: their structure, and the behaviour of the real Jaeger, alone and behind the collector."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml

from tests.deploy.collector import own_metrics, running_collector
from tests.deploy.jaeger import FOLDER, UI_CONFIG, Jaeger, has_old_names, running_jaeger, with_old_names
from tests.deploy.servers import answers, needs, program, running
from tests.deploy.spans import Sent, export, new_trace_id
from tests.serving import free_port, wait_until
from tools.stack_metrics import JAEGER_ALWAYS, JAEGER_WITH_QUERIES, JAEGER_WITH_SPANS

CONFIGS: Final = ("config", "badger", "jaeger-only", "none", "opensearch", "clickhouse", "kafka")

#: components of Jaeger 2.20 that have another name than in 2.13; it warns of the old ones
RENAMED: Final = {"spanmetrics", "otlphttp", "otlp"}

#: warnings that only the tests cause: a build without pages, and no Prometheus to send counts to
EXPECTED: Final = re.compile("ui assets not embedded|Exporting failed")

DASHBOARDS: Final = {"fastperf-overview", "fastperf-route", "fastperf-database", "fastperf-findings"}


def config(name: str) -> dict[str, Any]:
    """A configuration file."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


def ui_config() -> dict[str, Any]:
    """The configuration of the UI."""
    found: dict[str, Any] = json.loads(UI_CONFIG.read_text())
    return found


# Structure


@pytest.mark.parametrize("name", CONFIGS)
def test_jaeger_receives_otlp_only_and_has_no_unused_extension(name: str) -> None:
    found = config(name)
    assert set(found.get("receivers", {"otlp"})) == {"kafka" if name == "kafka" else "otlp"}
    assert set(found.get("extensions", {})) <= {"jaeger_storage", "jaeger_query", "healthcheckv2"}
    assert "ai" not in found.get("extensions", {}).get("jaeger_query", {})


@pytest.mark.parametrize("name", CONFIGS)
def test_pipelines_start_with_the_memory_limiter_and_have_no_batch_processor(name: str) -> None:
    for pipeline in config(name).get("service", {}).get("pipelines", {}).values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert "batch" not in pipeline["processors"]


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_listens_on_all_interfaces_and_every_variable_has_a_default_and_docs(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    variables = set(re.findall(r"\$\{env:(\w+)", text))
    readme = (FOLDER / "README.md").read_text()
    assert "0.0.0.0" not in text
    assert variables == set(re.findall(r"\$\{env:(\w+):-", text))
    assert {variable for variable in variables if f"`{variable}`" not in readme} == set()


def test_storage_is_bounded() -> None:
    backends = config("config")["extensions"]["jaeger_storage"]["backends"]
    assert backends == {"memory": {"memory": {"max_traces": "${env:JAEGER_MAX_TRACES:-5000}"}}}
    badger = config("badger")["extensions"]["jaeger_storage"]["backends"]["badger"]["badger"]
    assert badger["ttl"] == {"spans": "${env:JAEGER_BADGER_TTL:-72h}"}
    assert badger["ephemeral"] is False


def test_without_a_collector_spans_are_counted_the_same_way() -> None:
    collector = yaml.safe_load((FOLDER.parent / "collector" / "config.yaml").read_text())
    theirs = collector["connectors"]["span_metrics"]
    assert config("jaeger-only")["connectors"]["span_metrics"] == theirs


def test_without_a_collector_attributes_named_like_a_secret_do_not_reach_the_storage() -> None:
    collector = yaml.safe_load((FOLDER.parent / "collector" / "config.yaml").read_text())
    found = config("jaeger-only")
    assert found["processors"]["attributes/secrets"]["actions"] == [
        {"action": "delete", "pattern": pattern}
        for pattern in collector["processors"]["redaction"]["blocked_key_patterns"]
    ]
    assert "attributes/secrets" in found["service"]["pipelines"]["traces"]["processors"]


def test_probes_are_dropped_by_the_same_conditions_as_in_the_collector() -> None:
    collector = yaml.safe_load((FOLDER.parent / "collector" / "config.yaml").read_text())
    assert config("jaeger-only")["processors"]["filter/probes"] == collector["processors"]["filter/probes"]


@pytest.mark.parametrize("name", CONFIGS)
def test_components_have_the_names_of_the_jaeger_that_compose_pins(name: str) -> None:
    kinds = ("exporters", "connectors", "processors", "extensions")
    named = {each.partition("/")[0] for kind in kinds for each in config(name).get(kind, {})}
    assert named & RENAMED == set()


@pytest.mark.parametrize("name", CONFIGS)
def test_jaeger_names_itself(name: str) -> None:
    """A resource as a map makes 2.20 warn, and as a list 2.13 refuses it; both call themselves jaeger without one."""
    assert "resource" not in config(name).get("service", {}).get("telemetry", {})


def test_a_jaeger_with_the_old_names_gets_the_same_configuration() -> None:
    """What the tests run on 2.13 differs from what is shipped in these names only."""
    text = (FOLDER / "jaeger-only.yaml").read_text()
    old, new = yaml.safe_load(with_old_names(text)), yaml.safe_load(text)
    conditions = old["processors"]["filter/probes"].pop("traces")["span"]
    new_conditions = new["processors"]["filter/probes"].pop("trace_conditions")
    assert conditions == [condition.replace("span.", "") for condition in new_conditions]
    del new["connectors"]["span_metrics"]["series_expiration"]
    renamed = json.dumps(new).replace('"span_metrics"', '"spanmetrics"').replace("/span_metrics", "/spanmetrics")
    assert old == json.loads(renamed.replace("otlp_http", "otlphttp"))
    old, new = yaml.safe_load(with_old_names((FOLDER / "kafka.yaml").read_text())), config("kafka")
    [topic] = new["receivers"]["kafka"]["traces"].pop("topics")
    assert old["receivers"]["kafka"]["traces"].pop("topic") == topic
    assert old == new
    for name in {*CONFIGS} - {"jaeger-only", "kafka"}:
        assert yaml.safe_load(with_old_names((FOLDER / f"{name}.yaml").read_text())) == config(name)


# The real Jaeger


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Jaeger alone."""
    with running_jaeger(tmp_path_factory.mktemp("jaeger")) as server:
        yield server


def request(route: str = "/items/{id}", *, error: str | None = None) -> list[Sent]:
    """A request with one statement."""
    root = Sent(
        f"GET {route}", milliseconds=40, attributes={"http.request.method": "GET", "http.route": route}, error=error
    )
    statement = Sent(
        "SELECT items",
        trace_id=root.trace_id,
        parent_id=root.span_id,
        kind="CLIENT",
        milliseconds=20,
        attributes={"db.system.name": "postgresql", "db.query.text": "SELECT * FROM items WHERE id = $1"},
    )
    return [root, statement]


@needs("jaeger", "collector")
def test_a_request_with_its_statement_is_found_behind_the_collector(jaeger: Jaeger, tmp_path: Path) -> None:
    root, statement = request(error="no such item")
    with running_collector(tmp_path, jaeger=jaeger.otlp_grpc_port) as collector:
        collector.send([root, statement], service="shop")
        spans = jaeger.wait_for(root.trace_id, spans=2)
    top, below = sorted(spans, key=lambda span: span.parent_id)
    assert (top.name, top.kind, top.failed, top.service) == ("GET /items/{id}", "SERVER", True, "shop")
    assert (top.span_id, top.parent_id) == (root.span_id, "")
    assert (below.name, below.parent_id, below.failed) == ("SELECT items", root.span_id, False)
    assert below.attributes["db.query.text"] == "SELECT * FROM items WHERE id = $1"
    assert "shop" in jaeger.services()
    assert "GET /items/{id}" in jaeger.operations("shop")
    (summary,) = (each for each in jaeger.traces("shop") if each.trace_id == root.trace_id)
    assert (summary.root, summary.spans, summary.errors) == ("GET /items/{id}", 2, 1)


@needs("jaeger")
def test_an_unknown_trace_is_empty(jaeger: Jaeger) -> None:
    assert jaeger.trace(new_trace_id()) == []
    assert jaeger.traces("nobody") == []


@needs("jaeger")
def test_the_number_of_traces_in_memory_is_limited(tmp_path: Path) -> None:
    with running_jaeger(tmp_path, variables={"JAEGER_MAX_TRACES": "20"}) as server:
        traces = [request() for _ in range(100)]
        for spans in traces:
            assert export(server.endpoint, spans) == 200
        server.wait_for(traces[-1][0].trace_id, spans=2)
        kept = {each.trace_id for each in server.traces("shop", limit=20)}
    assert kept == {spans[0].trace_id for spans in traces[-20:]}


@needs("jaeger")
def test_jaeger_works_below_a_path_of_a_reverse_proxy(tmp_path: Path) -> None:
    with running_jaeger(tmp_path, base_path="/jaeger") as server:
        (root, _) = spans = request()
        assert export(server.endpoint, spans) == 200
        assert server.url.endswith("/jaeger")
        assert len(server.wait_for(root.trace_id, spans=2)) == 2
        # since 2.20 the page finds out by itself where it is
        assert '<base href="/jaeger/"' in server.page() or not has_old_names()
        assert "JAEGER_CONFIG" in server.page()


@needs("jaeger")
def test_with_badger_traces_survive_a_restart(tmp_path: Path) -> None:
    spans = request()
    with running_jaeger(tmp_path, ["badger"]) as server:
        assert export(server.endpoint, spans) == 200
        server.wait_for(spans[0].trace_id, spans=2)
    with running_jaeger(tmp_path, ["badger"]) as server:
        assert len(server.wait_for(spans[0].trace_id, spans=2)) == 2
        assert server.services() == {"shop"}


@needs("jaeger")
def test_the_server_s_metrics_have_the_names_that_rules_query(jaeger: Jaeger) -> None:
    spans = request()
    assert export(jaeger.endpoint, spans) == 200
    jaeger.wait_for(spans[0].trace_id, spans=2)
    # those of JAEGER_WITH_TROUBLE are there too until 2.13; later they are born with the first failure
    expected = {*JAEGER_ALWAYS, *JAEGER_WITH_SPANS, *JAEGER_WITH_QUERIES}
    wait_until(lambda: expected <= set(own_metrics(jaeger.metrics_url)), what=f"{expected} appear")
    with urlopen(jaeger.metrics_url, timeout=10) as response:
        assert 'service_name="jaeger"' in response.read().decode()


@needs("jaeger")
@pytest.mark.parametrize("overlays", [(), ("badger",), ("jaeger-only",), ("badger", "jaeger-only")])
def test_jaeger_runs_without_a_warning(overlays: tuple[str, ...], tmp_path: Path) -> None:
    with running_jaeger(tmp_path, overlays) as server:
        spans = request()
        assert export(server.endpoint, spans) == 200
        server.wait_for(spans[0].trace_id, spans=2)
    entries = [json.loads(line) for line in server.server.log.splitlines() if line.startswith("{")]
    assert entries
    assert [entry["msg"] for entry in entries if entry["level"] != "info" and not EXPECTED.match(entry["msg"])] == []


# The UI


def links(tags: Mapping[str, Any], resource: Mapping[str, Any]) -> list[str]:
    """The links that the UI creates for a span with these tags and this resource, in the order of the patterns.

    Like model/link-patterns.ts of jaeger-ui: a parameter is a tag of the span or of its resource, encoded as part of
    an address, and a pattern with a missing parameter creates no link.
    """
    found = []
    for pattern in ui_config()["linkPatterns"]:
        keys = pattern["key"] if isinstance(pattern["key"], list) else [pattern["key"]]
        within = resource if pattern["type"] == "process" else tags
        known = {**resource, **within}
        parameters = re.findall(r"#\{([^{}]*)\}", pattern["url"] + pattern["text"])
        if any(key in within for key in keys) and all(parameter in known for parameter in parameters):
            found.append(_filled(pattern["url"], known))
    return found


def _filled(template: str, known: Mapping[str, Any]) -> str:
    return re.sub(r"#\{([^{}]*)\}", lambda match: quote(str(known[match[1]]), safe=""), template)


def test_links_point_to_dashboards_that_exist() -> None:
    patterns = ui_config()["linkPatterns"]
    items = [item for menu in ui_config()["menu"] for item in menu["items"]]
    urls = [each["url"] for each in (*patterns, *items) if ":3000" in each["url"]]
    assert {re.match(r"http://localhost:3000/d/([\w-]+)", url)[1] for url in urls} == DASHBOARDS  # type: ignore[index]


@needs("jaeger", "collector")
def test_a_span_links_to_the_dashboard_of_its_service_and_route(jaeger: Jaeger, tmp_path: Path) -> None:
    root, statement = request()
    root.attributes = {**root.attributes, "fastperf.findings": ["n_plus_one"]}
    with running_collector(tmp_path, jaeger=jaeger.otlp_grpc_port) as collector:
        collector.send([root, statement], service="my shop")
        jaeger.wait_for(root.trace_id, spans=2)
    # the API of the UI, not /api/v3: the two name the service differently
    with urlopen(f"{jaeger.url}/api/traces/{root.trace_id}", timeout=10) as response:
        (trace,) = json.load(response)["data"]
    (resource,) = ({tag["key"]: tag["value"] for tag in each["tags"]} for each in trace["processes"].values())
    tags = {span["operationName"]: {tag["key"]: tag["value"] for tag in span["tags"]} for span in trace["spans"]}
    grafana = "http://localhost:3000/d"
    assert links(tags[root.name], resource) == [
        f"{grafana}/fastperf-route?var-job=my%20shop&var-method=GET&var-route=%2Fitems%2F%7Bid%7D",
        f"{grafana}/fastperf-findings?var-job=my%20shop",
        f"{grafana}/fastperf-overview?var-job=my%20shop",
    ]
    assert f"{grafana}/fastperf-database?var-job=my%20shop" in links(tags[statement.name], resource)


@needs("jaeger")
def test_the_ui_gets_its_configuration(jaeger: Jaeger) -> None:
    match = re.search(r"JAEGER_CONFIG = (\{.*?\});\s*$", jaeger.page(), re.MULTILINE)
    assert match is not None
    assert json.loads(match[1]) == ui_config()


# The Monitor tab


@contextmanager
def prometheus_with_otlp(folder: Path) -> Iterator[int]:
    """Run a Prometheus that accepts OTLP; yield its port."""
    port = free_port()
    file = folder / "prometheus.yml"
    file.write_text("storage: {tsdb: {out_of_order_time_window: 30m}}\n")
    command: list[str | Path] = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-otlp-receiver",
    ]
    with running(command, folder / "prometheus.log", lambda: answers(f"http://127.0.0.1:{port}/-/ready")):
        yield port


def assert_monitor_has_data(jaeger: Jaeger) -> None:
    """Check calls, errors and latencies of the requests from `request`, of which half fail."""
    service, operation = "shop", "GET /items/{id}"
    wait_until(lambda: jaeger.monitor("calls", service).get(operation), seconds=60, what="calls in the Monitor tab")
    latencies = wait_until(lambda: jaeger.monitor("latencies", service).get(operation), seconds=60, what="latencies")
    errors = wait_until(lambda: jaeger.monitor("errors", service).get(operation), seconds=60, what="errors")
    assert jaeger.monitor("calls", service)[operation][-1] > 0
    # spans of 40 ms, in the bucket of 25 to 50
    assert 25 <= latencies[-1] <= 50
    assert errors[-1] == pytest.approx(0.5, abs=0.2)
    assert jaeger.monitor("calls", "nobody") == {}


@needs("jaeger", "collector", "prometheus")
def test_the_monitor_tab_has_data_behind_the_collector(tmp_path: Path) -> None:
    with (
        prometheus_with_otlp(tmp_path) as prometheus,
        running_jaeger(tmp_path, prometheus=prometheus) as jaeger,
        running_collector(
            tmp_path,
            # the counts include all requests, although no trace is kept
            ["tail-sampling"],
            jaeger=jaeger.otlp_grpc_port,
            prometheus=prometheus,
            variables={"TAIL_DECISION_WAIT": "1s", "TAIL_KEEP_PERCENT": "0"},
        ) as collector,
    ):

        def half_fail() -> bool:
            collector.send([*request(), *request(error="no such item")])
            return bool(jaeger.monitor("calls", "shop"))

        wait_until(half_fail, seconds=60, what="the Monitor tab has data")
        assert_monitor_has_data(jaeger)


@needs("jaeger", "prometheus")
def test_without_a_collector_jaeger_drops_probes_and_has_a_monitor_tab(tmp_path: Path) -> None:
    probe = Sent("GET /health", attributes={"url.path": "/health"})
    with (
        prometheus_with_otlp(tmp_path) as prometheus,
        running_jaeger(tmp_path, ["jaeger-only"], prometheus=prometheus) as jaeger,
    ):

        def half_fail() -> bool:
            assert export(jaeger.endpoint, [probe, *request(), *request(error="no such item")]) == 200
            return bool(jaeger.monitor("calls", "shop"))

        wait_until(half_fail, seconds=60, what="the Monitor tab has data")
        assert_monitor_has_data(jaeger)
        assert jaeger.trace(probe.trace_id) == []
        assert jaeger.operations("shop") == {"GET /items/{id}", "SELECT items"}


@needs("jaeger")
def test_without_a_collector_jaeger_removes_attributes_named_like_a_secret(tmp_path: Path) -> None:
    secrets = {"http.request.header.authorization": "Bearer x", "db.password": "x", "refreshToken": "x", "api_key": "x"}
    kept: dict[str, str | int] = {"gen_ai.usage.input_tokens": 3, "http.route": "/items/{id}"}
    span = Sent("GET /items/{id}", attributes={**secrets, **kept})
    with running_jaeger(tmp_path, ["jaeger-only", "badger"]) as server:
        assert export(server.endpoint, [span]) == 200
        [found] = server.wait_for(span.trace_id)
    assert found.attributes.items() >= kept.items()
    assert found.attributes.keys() & secrets.keys() == set()
