"""The collector's configurations: their structure, and how the real collector behaves with them."""

import logging
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final, Self

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from otel_fastperf import Settings, setup_telemetry
from tests.certificates import self_signed
from tests.deploy.collector import OVERLAYS, Collector, Ports, configs, running_collector
from tests.deploy.prometheus import stack_prometheus
from tests.deploy.promql import OURS
from tests.deploy.servers import DEPLOY, GRAFANA, needs, program
from tests.deploy.spans import Sent, Value, export
from tests.otlp import Receiver, accepted, rejected, unavailable
from tests.serving import Command, free_port, run_server, wait_until
from tools.stack_metrics import (
    COLLECTOR,
    COLLECTOR_ALWAYS,
    COLLECTOR_TAIL_SAMPLING,
    COLLECTOR_WITH_PROBES,
    COLLECTOR_WITH_SPANS,
    COLLECTOR_WITH_TROUBLE,
    JAEGER,
)

#: combinations of files: the base alone, with each overlay, and with overlays that belong together
COMBINATIONS: Final = (
    (),
    ("persistent",),
    ("tail-sampling",),
    ("load-balancing",),
    ("tail-sampling", "sampling-tier"),
    ("sampling-tier",),
    ("kafka",),
    ("tail-sampling", "kafka", "tail-sampling-kafka"),
    ("tail-sampling", "sampling-tier", "kafka", "tail-sampling-kafka"),
    ("tempo",),
    ("persistent", "tempo", "persistent-tempo"),
    ("tls",),
    ("logs",),
    ("persistent", "logs", "persistent-logs"),
    # compose.persistent.yml without compose.logs.yml
    ("persistent", "persistent-logs"),
    ("persistent", "tail-sampling"),
    ("persistent", "tls", "persistent-tls"),
    ("persistent", "load-balancing", "persistent-load-balancing"),
    ("persistent", "kafka", "persistent-kafka"),
    ("persistent", "tls", "persistent-tls", "load-balancing", "persistent-load-balancing"),
    ("tail-sampling", "sampling-tier", "persistent"),
)

#: components by kind, current names only: the exporters and connectors otlp, otlphttp, spanmetrics and loadbalancing
#: are old names with a warning, and the batch processor is deprecated.
TYPES: Final = {
    "receivers": {"otlp"},
    "processors": {"memory_limiter", "filter", "redaction", "transform", "tail_sampling"},
    "exporters": {"otlp_grpc", "otlp_http", "kafka", "load_balancing"},
    "connectors": {"forward", "span_metrics"},
    "extensions": {"health_check", "file_storage", "bearertokenauth"},
}

#: components of the base that are unused with an overlay
IDLE: Final = {
    "load-balancing": {"otlp_grpc/jaeger"},
    "kafka": {"otlp_grpc/jaeger"},
    "tempo": {"otlp_grpc/jaeger"},
    "persistent-logs": {"otlp_http/logs"},
    "sampling-tier": {"span_metrics", "filter/probes", "redaction", "transform/traces"},
}

#: … and those that a further overlay uses after all
USED_AFTER_ALL: Final[dict[tuple[str, ...], set[str]]] = {("persistent", "logs", "persistent-logs"): {"otlp_http/logs"}}

WITHOUT_SUFFIXES: Final = {"without_scope_info": True, "without_type_suffix": True, "without_units": True}

in_all_ways = pytest.mark.parametrize("overlays", COMBINATIONS, ids=lambda names: "+".join(names) or "base")


def merged(overlays: tuple[str, ...]) -> dict[str, Any]:
    """The configuration merged like in the collector: maps are merged, anything else is replaced."""
    whole: dict[str, Any] = {}
    for path in configs(overlays):
        _merge(whole, yaml.safe_load(path.read_text()))
    return whole


def _merge(into: dict[str, Any], further: Mapping[str, Any]) -> None:
    for key, value in further.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def pipelines(config: Mapping[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The pipelines: {name: {"receivers": […], "processors": […], "exporters": […]}}."""
    found: dict[str, dict[str, list[str]]] = config["service"]["pipelines"]
    return found


def without_comments(path: Path) -> str:
    """The text of a configuration, without comment lines."""
    return "\n".join(line for line in path.read_text().splitlines() if not line.strip().startswith("#"))


def used(config: Mapping[str, Any]) -> set[str]:
    """Names of the components that the service uses."""
    in_pipelines = {name for each in pipelines(config).values() for names in each.values() for name in names}
    return in_pipelines | set(config["service"]["extensions"])


# Structure, checked without a collector


def test_every_overlay_is_in_a_tested_combination() -> None:
    assert {path.stem for path in OVERLAYS.glob("*.yaml")} == {name for names in COMBINATIONS for name in names}


@in_all_ways
def test_used_components_are_declared_and_declared_ones_used(overlays: tuple[str, ...]) -> None:
    config = merged(overlays)
    declared = {name for kind in TYPES for name in config[kind]}
    idle = {name for overlay in overlays for name in IDLE.get(overlay, ())} - USED_AFTER_ALL.get(overlays, set())
    assert used(config) == declared - idle


@in_all_ways
def test_only_current_component_names_are_used(overlays: tuple[str, ...]) -> None:
    config = merged(overlays)
    for kind, types in TYPES.items():
        assert {name.partition("/")[0] for name in config[kind] or ()} <= types


@in_all_ways
def test_every_pipeline_starts_with_the_memory_limiter(overlays: tuple[str, ...]) -> None:
    for name, pipeline in pipelines(merged(overlays)).items():
        assert pipeline["processors"][0] == "memory_limiter", name


@in_all_ways
def test_every_exporter_has_a_batching_queue_retries_and_a_tls_setting(overlays: tuple[str, ...]) -> None:
    config = merged(overlays)
    for name, exporter in config["exporters"].items():
        if name not in used(config):
            continue
        assert exporter["sending_queue"]["batch"]["max_size"] > 0, name
        assert "max_elapsed_time" in exporter["retry_on_failure"], name
        transport = exporter["protocol"]["otlp"] if name.startswith("load_balancing") else exporter
        assert transport["tls"], name


@in_all_ways
def test_with_the_persistent_overlay_every_used_exporter_has_a_queue_on_disk(overlays: tuple[str, ...]) -> None:
    config = merged(overlays)
    queues = [config["exporters"][name]["sending_queue"] for name in used(config) & set(config["exporters"])]
    expected = "file_storage/queues" if "persistent" in overlays else None
    assert {queue.get("storage") for queue in queues} == {expected}


@in_all_ways
def test_spans_are_counted_before_sampling(overlays: tuple[str, ...]) -> None:
    for name, pipeline in pipelines(merged(overlays)).items():
        assert not ("tail_sampling" in pipeline["processors"] and "span_metrics" in pipeline["exporters"]), name


@in_all_ways
def test_names_of_the_collector_s_metrics_are_pinned(overlays: tuple[str, ...]) -> None:
    (reader,) = merged(overlays)["service"]["telemetry"]["metrics"]["readers"]
    exporter = reader["pull"]["exporter"]["prometheus"]
    assert {key: exporter.get(key) for key in WITHOUT_SUFFIXES} == WITHOUT_SUFFIXES


def test_the_monitor_tab_queries_the_metrics_of_span_metrics() -> None:
    span_metrics = merged(())["connectors"]["span_metrics"]
    jaeger = yaml.safe_load((DEPLOY / "jaeger" / "config.yaml").read_text())
    asks = jaeger["extensions"]["jaeger_storage"]["metric_backends"]["prometheus"]["prometheus"]
    assert asks["latency_unit"] == span_metrics["histogram"]["unit"] == "ms"
    assert asks["metric_namespace"] == span_metrics["namespace"]
    assert asks["normalize_calls"] is True
    assert asks["normalize_duration"] is True
    assert span_metrics["aggregation_cardinality_limit"] > 0


@pytest.mark.parametrize("path", sorted((DEPLOY / "collector").rglob("*.yaml")), ids=lambda path: path.name)
def test_nothing_listens_on_all_interfaces_and_every_variable_has_a_default(path: Path) -> None:
    text = without_comments(path)
    assert "0.0.0.0" not in text
    assert set(re.findall(r"\$\{env:(\w+)", text)) == set(re.findall(r"\$\{env:(\w+):-", text))


def test_every_variable_is_in_the_readme() -> None:
    texts = [without_comments(path) for path in (DEPLOY / "collector").rglob("*.yaml")]
    variables = {name for text in texts for name in re.findall(r"\$\{env:(\w+):-", text)}
    readme = (DEPLOY / "collector" / "README.md").read_text()
    assert {name for name in variables if f"`{name}`" not in readme} == set()


def test_the_minimal_build_has_these_components_and_the_debug_exporter() -> None:
    manifest = yaml.safe_load((DEPLOY / "collector" / "builder.yaml").read_text())
    special = {"otlp_grpc": "otlpexporter", "file_storage": "filestorage"}
    for kind, types in TYPES.items():
        modules = {each["gomod"].split()[0].rpartition("/")[2] for each in manifest[kind]}
        expected = {special.get(each, each.replace("_", "") + kind.removesuffix("s")) for each in types}
        assert modules - {"debugexporter"} == expected


# The real collector


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables that name files with a certificate for 127.0.0.1 and a token."""
    folder = tmp_path_factory.mktemp("secrets")
    certificate, key = self_signed(folder)
    token = folder / "token"
    token.write_text("the-token\n")
    return {"OTLP_CERT_FILE": str(certificate), "OTLP_KEY_FILE": str(key), "OTLP_TOKEN_FILE": str(token)}


@needs("collector")
@in_all_ways
def test_the_collector_accepts_the_configuration(
    overlays: tuple[str, ...], secrets: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [program("collector"), "validate", *(f"--config={path}" for path in configs(overlays))],
        env={**secrets, "COLLECTOR_STORAGE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs("collector")
@in_all_ways
def test_the_collector_starts_without_deprecation_warnings(
    overlays: tuple[str, ...], secrets: dict[str, str], tmp_path: Path
) -> None:
    variables = {**secrets, "SAMPLERS_HOST": "localhost", "KAFKA_BROKERS": "[127.0.0.1:9]"}
    with running_collector(tmp_path, overlays, variables=variables) as collector:
        metrics = collector.metrics()
        assert metrics["otelcol_process_uptime"] > 0
        assert "deprecated" not in collector.server.log.lower()


@pytest.fixture(scope="module")
def jaeger() -> Iterator[Receiver]:
    """A receiver in place of Jaeger."""
    with Receiver("grpc") as receiver:
        yield receiver


@pytest.fixture(scope="module")
def base(jaeger: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """The base configuration, which exports to `jaeger`."""
    with running_collector(tmp_path_factory.mktemp("base"), jaeger=jaeger.port) as collector:
        yield collector


def through(collector: Collector, jaeger: Receiver, *spans: Sent) -> list[Any]:
    """Send these spans and an extra one, wait for the extra one, and return the others that came out."""
    last = Sent("the last one")
    collector.send([*spans, last])
    wait_until(lambda: any(span.span_id == last.span_id for span in jaeger.spans), what="the spans come out")
    sent = {span.span_id for span in spans}
    return [span for span in jaeger.spans if span.span_id in sent]


JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.dBjftJeZ4CVPmB92K27uhbUJU1p1r_wW1gFWFOEjXk"

SECRET_KEYS: Final[dict[str, Value]] = {
    "http.request.header.authorization": ["Digest username=anna"],
    "http.request.header.cookie": ["session=f00"],
    "http.response.header.set-cookie": ["session=f00"],
    "http.request.header.x-api-key": ["f00"],
    "apiKey": "f00",
    "Authorization": "f00",
    "env.DB_PASSWORD": "f00",
    "env.API_KEY": "f00",
    "db.password": "f00",
    "user.passwd": "f00",
    "pin.pwd": 4711,
    "client_secret": "f00",
    "app.secret.value": "f00",
    "refreshToken": "f00",
    "access_token": "f00",
    "aws.credentials": "f00",
    "tls.private_key": "f00",
}

#: value -> what may be left of it
SECRET_VALUES: Final = {
    f"sent {JWT}": "sent ****",
    "Bearer abcdef0123456789": "****",
    "authorization was basic YW5uYTpmMDA=": "authorization was ****",
    "q=1&access_token=f00&page=2": "q=1&access_****&page=2",
    "postgresql://anna:f00@db:5432/shop": "postgresql****db:5432/shop",
    "card 4111 1111 1111 1111 was refused": "card**** was refused",
    "5500-0000-0000-0004": "****",
    "378282246310005": "****",
    "key AKIAIOSFODNN7EXAMPLE": "key ****",
}

HARMLESS: Final[dict[str, Value]] = {
    "http.route": "/items/{id}",
    "http.response.status_code": 200,
    "url.query": "q=shoes&page=2",
    "db.query.text": "SELECT * FROM users WHERE password=$1 AND token = %s",
    "gen_ai.usage.input_tokens": 512,
    "fastperf.time.db": 0.4111111111111111,
    "fastperf.findings": ["n_plus_one", "slow_query"],
    "fastperf.evidence.seconds": "0.4111111111111111",
    "session.id": "3f2a",
    "cookiecutter.version": "2",
    "secretary": "anna",
    "is_broken": False,
    "token_count": 3,
    "order": "ord-4111111111111111a",
    "at": 1790000000000000,
    "id": "41111111-1111-4111-8111-111111111111",
}


@needs("collector")
@pytest.mark.parametrize("key", SECRET_KEYS)
def test_a_secret_is_masked_by_its_name(base: Collector, jaeger: Receiver, key: str) -> None:
    secret = {key: SECRET_KEYS[key]}
    (span,) = through(base, jaeger, Sent("GET /", attributes=secret, events={"exception": secret}))
    assert span.attributes[key] == "****"
    assert span.events[0].attributes[key] == "****"


@needs("collector")
@pytest.mark.parametrize("value", SECRET_VALUES)
def test_a_secret_is_masked_by_its_format(base: Collector, jaeger: Receiver, value: str) -> None:
    attributes: dict[str, Value] = {"note": value}
    (span,) = through(base, jaeger, Sent("GET /", attributes=attributes, events={"exception": attributes}))
    assert span.attributes["note"] == SECRET_VALUES[value]
    assert span.events[0].attributes["note"] == SECRET_VALUES[value]


@needs("collector")
def test_secrets_in_lists_numbers_resources_and_messages_are_masked(base: Collector, jaeger: Receiver) -> None:
    span = Sent(
        "GET /",
        attributes={"list": ["a", f"Bearer {JWT}"], "number": 4111111111111111},
        error=f"401 for Bearer {JWT} at postgresql://anna:f00@db/shop with card 4111111111111111",
    )
    assert export(base.endpoint, [span], resource={"deploy.token": "f00"}) == 200
    wait_until(lambda: any(each.span_id == span.span_id for each in jaeger.spans))
    (got,) = (each for each in jaeger.spans if each.span_id == span.span_id)
    assert got.attributes == {"list": '["a","****"]', "number": "****"}
    assert got.status_message == "401 for **** at postgresql****db/shop with card****"
    assert got.resource["deploy.token"] == "****"


@needs("collector")
def test_a_value_that_is_not_secret_stays_unchanged(base: Collector, jaeger: Receiver) -> None:
    sent = Sent("GET /items/{id}", attributes=HARMLESS, events={"fastperf.slow_query": HARMLESS}, error="no such item")
    (span,) = through(base, jaeger, sent)
    assert span.attributes == HARMLESS
    assert span.events[0].attributes == HARMLESS
    assert (span.name, span.status_message) == ("GET /items/{id}", "no such item")


@needs("collector")
def test_the_service_name_is_copied_for_jaeger_s_links(base: Collector, jaeger: Receiver) -> None:
    (span,) = through(base, jaeger, Sent("GET /"))
    assert span.resource == {"service.name": "shop", "fastperf.service": "shop"}


@needs("collector")
@pytest.mark.parametrize("key", ["url.path", "http.route"])
@pytest.mark.parametrize(
    "path", ["/health", "/healthz", "/livez", "/readyz", "/ping", "/metrics", "/metrics/", "/docs", "/openapi.json"]
)
def test_probes_are_dropped(base: Collector, jaeger: Receiver, key: str, path: str) -> None:
    assert through(base, jaeger, Sent(f"GET {path}", attributes={key: path})) == []


@needs("collector")
@pytest.mark.parametrize(
    ("kind", "path"),
    [("SERVER", "/orders/health"), ("SERVER", "/healthy"), ("SERVER", "/pings"), ("CLIENT", "/health")],
)
def test_a_span_that_only_resembles_a_probe_is_kept(base: Collector, jaeger: Receiver, kind: str, path: str) -> None:
    assert len(through(base, jaeger, Sent(f"GET {path}", kind=kind, attributes={"url.path": path}))) == 1


@needs("collector")
def test_a_variable_sets_the_paths_that_are_dropped(jaeger: Receiver, tmp_path: Path) -> None:
    with running_collector(tmp_path, jaeger=jaeger.port, variables={"COLLECTOR_DROP_PATHS": "/up"}) as collector:
        spans = [Sent("up", attributes={"url.path": "/up"}), Sent("health", attributes={"url.path": "/health"})]
        assert [span.name for span in through(collector, jaeger, *spans)] == ["health"]


# Metrics and log records


@needs("collector", "prometheus")
@pytest.mark.parametrize("way", ["through the collector", "to Prometheus itself"])
def test_what_an_app_pushes_is_what_rules_and_dashboards_query(way: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = free_port()
        collector = stack.enter_context(running_collector(tmp_path, prometheus=port))
        prometheus = stack.enter_context(stack_prometheus(tmp_path, port=port, quick=True))
        variables = {"OTEL_METRICS_EXPORTER": "otlp"}
        if way == "to Prometheus itself":
            variables["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"] = f"{prometheus.url}/api/v1/otlp/v1/metrics"
        app = stack.enter_context(_app(collector, tmp_path, variables))
        wait_until(lambda: app.get("/items/1").status and prometheus.query(_REQUESTS), what="requests")
        pushed = {one["metric"]["__name__"] for one in prometheus.query('{job="shop"}')}
        assert {"fastperf_build_info", "fastperf_event_loop_lag_seconds_bucket", "process_cpu_seconds_total"} <= pushed
        known = set(OURS) | {"target_info"} | {name for name in pushed if ":" in name or name.startswith("ALERTS")}
        assert pushed <= known
        wait_until(lambda: app.get("/items/1").status and prometheus.query(_COUNTED), what="objectives count them")


_REQUESTS: Final = (
    'http_server_request_duration_seconds_count{job="shop", http_route="/items/{item_id}", http_request_method="GET"}'
)
_COUNTED: Final = 'job:slo_availability_requests:increase30s{job="shop"} > 0'


def _app(collector: Collector, folder: Path, variables: Mapping[str, str]) -> AbstractContextManager[Command]:
    environment = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        **variables,
    }
    return run_server(
        ["uvicorn", "tests.service:app", "--port", "{port}"], log=folder / "app.log", environment=environment
    )


@needs("collector")
def test_log_records_go_to_a_store_with_their_secrets_masked(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/pay")
    def pay() -> None:
        logging.getLogger("shop").warning("refused with Bearer %s", JWT, extra={"api_key": "f00", "shop": "oslo"})

    with (
        Receiver() as store,
        running_collector(tmp_path, ["logs"], variables={"LOGS_ENDPOINT": store.endpoint}) as collector,
    ):
        settings = Settings(
            service_name="shop",
            traces={"exporter": "none", "base_endpoint": collector.endpoint},
            logs={"exporter": "otlp"},
        )
        with setup_telemetry(app, settings=settings), TestClient(app) as client:
            client.get("/pay")
        wait_until(lambda: store.logs, what="the record")
        [record] = [record for logger, record in store.logs if logger == "shop"]
    attributes = {each.key: each.value.string_value for each in record.attributes}
    assert record.body.string_value == "refused with ****"
    assert (attributes["api_key"], attributes["shop"]) == ("****", "oslo")
    assert record.trace_id


# Tail sampling


def trace(name: str, *, slow: bool = False, error: bool = False, finding: str = "") -> list[Sent]:
    """A trace of a request with one statement; the finding is on the "request" or on the "statement"."""
    root = Sent(name, milliseconds=3000 if slow else 5)
    if finding == "request":
        root.attributes = {"fastperf.findings": ["n_plus_one"]}
    statement = Sent(
        f"{name} SELECT",
        trace_id=root.trace_id,
        parent_id=root.span_id,
        kind="CLIENT",
        error="deadlock" if error else None,
        events={"fastperf.slow_query": {"fastperf.finding.kind": "slow_query"}} if finding == "statement" else {},
    )
    return [root, statement]


SAMPLED: Final = {"TAIL_DECISION_WAIT": "1s", "TAIL_KEEP_PERCENT": "0"}


@needs("collector")
def test_traces_with_errors_slow_spans_or_findings_are_kept_whole_and_no_others(tmp_path: Path) -> None:
    kept = {
        "error": trace("error", error=True),
        "slow": trace("slow", slow=True),
        "finding": trace("finding", finding="request"),
        "finding below": trace("finding below", finding="statement"),
    }
    dropped = [trace(f"plain {number}") for number in range(20)]
    with (
        Receiver("grpc") as jaeger,
        running_collector(tmp_path, ["tail-sampling"], jaeger=jaeger.port, variables=SAMPLED) as collector,
    ):
        # one span at a time, like from several services
        for index in (1, 0):
            for spans in (*dropped, *kept.values()):
                collector.send([spans[index]])
        decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
        wait_until(lambda: collector.metrics().get(decided) == len(dropped) + len(kept), what="all are decided")
        jaeger.wait_for(2 * len(kept))
        late = Sent("late", trace_id=kept["error"][0].trace_id, parent_id=kept["error"][0].span_id)
        collector.send([late, Sent("too late", trace_id=dropped[0][0].trace_id)])
        jaeger.wait_for(2 * len(kept) + 1)
        assert set(COLLECTOR_TAIL_SAMPLING) <= set(collector.metrics())
    assert {span.span_id for span in jaeger.spans} == {
        *(span.span_id for spans in kept.values() for span in spans),
        late.span_id,
    }


@needs("collector")
def test_a_share_of_the_other_traces_is_kept(tmp_path: Path) -> None:
    variables = {**SAMPLED, "TAIL_KEEP_PERCENT": "20"}
    with (
        Receiver("grpc") as jaeger,
        running_collector(tmp_path, ["tail-sampling"], jaeger=jaeger.port, variables=variables) as collector,
    ):
        collector.send([Sent(f"plain {number}") for number in range(1000)])
        decided = "otelcol_processor_tail_sampling_global_count_traces_sampled"
        wait_until(lambda: collector.metrics().get(decided) == 1000, what="all are decided")
        jaeger.wait_for(100)
        wait_until(lambda: collector.metrics()["otelcol_exporter_queue_size"] < 100, what="all are sent")
    # 200 are expected, with a deviation of 13
    assert 100 <= len(jaeger.spans) <= 300


@needs("collector")
def test_two_tiers_keep_a_trace_together(tmp_path: Path) -> None:
    traces = [trace(f"request {number}", error=number % 2 == 0) for number in range(60)]
    second = ("tail-sampling", "sampling-tier")
    with (
        Receiver("grpc") as left_jaeger,
        Receiver("grpc") as right_jaeger,
        running_collector(tmp_path, second, jaeger=left_jaeger.port, variables=SAMPLED) as left,
        running_collector(tmp_path, second, jaeger=right_jaeger.port, variables=SAMPLED) as right,
    ):
        addresses = f"[127.0.0.1:{left.ports.grpc}, 127.0.0.1:{right.ports.grpc}]"
        resolver = "exporters::load_balancing/samplers::resolver"
        # two fixed addresses in place of a host name that resolves to both
        extra = (f"yaml:{resolver}::dns: null", f"yaml:{resolver}::static::hostnames: {addresses}")
        with (
            running_collector(tmp_path, ["load-balancing"], extra=extra) as one,
            running_collector(tmp_path, ["load-balancing"], extra=extra) as other,
        ):
            # the halves of a trace arrive at different collectors
            for root, statement in traces:
                one.send([root])
                other.send([statement])
            wait_until(lambda: len(left_jaeger.spans) + len(right_jaeger.spans) >= 60, what="errors come out")
            time.sleep(0.5)
    of_left = {span.trace_id for span in left_jaeger.spans}
    of_right = {span.trace_id for span in right_jaeger.spans}
    assert of_left
    assert of_right
    assert not of_left & of_right
    failed = {span.span_id for number, spans in enumerate(traces) if number % 2 == 0 for span in spans}
    assert {span.span_id for span in (*left_jaeger.spans, *right_jaeger.spans)} == failed


# TLS


@needs("collector")
@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer wrong"}, 401), ({"authorization": "Bearer the-token"}, 200)],
    ids=["no token", "wrong token", "token"],
)
def test_over_tls_only_clients_with_the_token_are_accepted(
    secrets: dict[str, str], tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    context = ssl.create_default_context(cafile=secrets["OTLP_CERT_FILE"])
    with (
        Receiver("grpc") as jaeger,
        running_collector(tmp_path, ["tls"], jaeger=jaeger.port, variables=secrets) as collector,
    ):
        endpoint = collector.endpoint.replace("http:", "https:")
        assert export(endpoint, [Sent("GET /")], headers=headers, context=context) == status
        assert export(collector.endpoint, [Sent("GET /")], headers=headers) == 400, "plain text"
        if status == 200:
            assert [span.name for span in jaeger.wait_for(1)] == ["GET /"]


# No loss


@needs("collector")
def test_a_batch_too_large_for_one_message_is_sent_in_several(base: Collector, jaeger: Receiver) -> None:
    megabyte = "x" * 1_000_000
    spans = [Sent(f"GET /{number}", attributes={"body": megabyte}) for number in range(8)]
    base.send(spans)
    sent = {span.span_id for span in spans}
    wait_until(lambda: sent <= {span.span_id for span in jaeger.spans}, what="all come out")


class Load:
    """Sends single spans continuously, and keeps the ids of accepted ones."""

    def __init__(self, endpoint: str) -> None:
        self.taken: set[str] = set()
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def take(self, number: int) -> None:
        """Wait until `number` more spans are accepted."""
        goal = len(self.taken) + number
        wait_until(lambda: len(self.taken) >= goal, seconds=60)

    def _run(self) -> None:
        while not self._stop.is_set():
            span = Sent("GET /")
            try:
                taken = export(self._endpoint, [span]) == 200
            except OSError:  # the collector was just killed
                taken = False
            if taken:
                self.taken.add(span.span_id)
            time.sleep(0.002)


@needs("collector")
def test_no_span_is_lost_if_the_collector_is_killed_while_jaeger_is_down_or_slow(tmp_path: Path) -> None:
    ports = Ports()
    jaeger = Receiver("grpc")  # not started yet, so down
    with Load(f"http://127.0.0.1:{ports.http}") as load:
        with running_collector(tmp_path, ["persistent"], jaeger=jaeger.port, ports=ports) as collector:
            load.take(300)
            collector.server.kill()
        jaeger.answer = accepted(delay=0.3)
        with jaeger, running_collector(tmp_path, ["persistent"], jaeger=jaeger.port, ports=ports) as collector:
            load.take(300)
            jaeger.wait_for(1)
            collector.server.kill()
    assert load.taken
    with jaeger, running_collector(tmp_path, ["persistent"], jaeger=jaeger.port, ports=ports):
        wait_until(lambda: load.taken <= {span.span_id for span in jaeger.spans}, seconds=60, what="all come out")


# The collector's own metrics


def test_rules_and_dashboards_query_known_names() -> None:
    folders = (DEPLOY / "prometheus", DEPLOY / "runbooks", GRAFANA / "dashboards")
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.*") if path.is_file()]
    queried = {name for text in texts for name in re.findall(r"\botelcol_\w+", text)}
    assert queried - {*COLLECTOR, *JAEGER} == set()


@needs("collector")
def test_the_server_s_metrics_have_the_names_that_rules_query(tmp_path: Path) -> None:
    with Receiver("grpc") as jaeger, running_collector(tmp_path, jaeger=jaeger.port) as collector:
        assert set(COLLECTOR_ALWAYS) <= set(collector.metrics())
        collector.send([Sent("GET /"), Sent("GET /health", attributes={"url.path": "/health"})])
        jaeger.wait_for(1)
        expected = {*COLLECTOR_ALWAYS, *COLLECTOR_WITH_SPANS, *COLLECTOR_WITH_PROBES}
        wait_until(lambda: expected <= set(collector.metrics()), what="the names appear")


@needs("collector")
def test_metrics_of_failures_have_the_names_that_alerts_query(tmp_path: Path) -> None:
    found: set[str] = set()
    with Receiver("grpc", answer=rejected()) as jaeger, running_collector(tmp_path, jaeger=jaeger.port) as collector:
        collector.send([Sent("GET /")])
        jaeger.wait_for_requests(1)
        wait_until(lambda: "otelcol_exporter_send_failed_spans" in collector.metrics(), what="the failure is counted")
        found |= set(collector.metrics())
    with (
        Receiver("grpc", answer=unavailable()) as jaeger,
        running_collector(tmp_path, jaeger=jaeger.port, variables={"COLLECTOR_QUEUE_BYTES": "3300000"}) as collector,
    ):
        large = [Sent("GET /", attributes={"body": "x" * 500_000}) for _ in range(4)]
        statuses = [export(collector.endpoint, large) for _ in range(4)]
        assert statuses[-1] == 503, "the app is told to try again"
        found |= set(collector.metrics())
    little = "yaml:processors::memory_limiter: {limit_mib: 2, spike_limit_mib: 1}"
    with running_collector(tmp_path, extra=[little]) as collector:
        wait_until(lambda: export(collector.endpoint, [Sent("GET /")]) == 503, what="memory is short")
        found |= set(collector.metrics())
    assert set(COLLECTOR_WITH_TROUBLE) <= found
