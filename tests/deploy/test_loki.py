"""The log store: its configuration, and records and findings of a real app on their way into a real Loki."""

import logging
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from otel_fastperf import Finding, Kind, Settings, Severity, Telemetry, setup_telemetry
from tests.deploy.collector import running_collector
from tests.deploy.loki import CONFIG, Loki, running_loki, variables
from tests.deploy.prometheus import stack_prometheus
from tests.deploy.servers import DEPLOY, GRAFANA, needs, program
from tests.serving import free_port, wait_until

SECRET: Final = "Bearer abcdef0123456789"


def sources(name: str) -> dict[str, Any]:
    """The data sources of a file of Grafana's provisioning, by uid."""
    found = yaml.safe_load((GRAFANA / name).read_text())
    return {source["uid"]: source for source in found.get("datasources", ())}


# Structure


def test_records_are_deleted_after_a_time_and_a_service_that_logs_in_a_loop_is_refused() -> None:
    found = yaml.safe_load(CONFIG.read_text())
    assert found["compactor"]["retention_enabled"] is True
    limits = found["limits_config"]
    assert limits["retention_period"] == "${LOKI_RETENTION:-168h}"
    assert {"ingestion_rate_mb", "per_stream_rate_limit", "max_global_streams_per_user", "max_line_size"} <= set(limits)


def test_nothing_listens_on_all_interfaces_and_every_variable_has_a_default_and_docs() -> None:
    text = CONFIG.read_text()
    readme = (DEPLOY / "loki" / "README.md").read_text()
    named = set(re.findall(r"\$\{(\w+)", text)) - {"NAME"}
    assert "0.0.0.0" not in text
    assert named == set(re.findall(r"\$\{(\w+):-", text)) - {"NAME"}
    assert {name for name in named if f"`{name}`" not in readme} == set()


def test_only_what_names_a_service_is_a_label() -> None:
    attributes = yaml.safe_load(CONFIG.read_text())["limits_config"]["otlp_config"]["resource_attributes"]
    assert attributes["ignore_defaults"] is True
    [labels] = attributes["attributes_config"]
    assert labels["attributes"] == ["service.name", "service.namespace", "deployment.environment.name"]


def test_a_record_links_to_its_trace_in_grafana_and_in_jaeger() -> None:
    [loki] = sources("logs/loki.yaml").values()
    assert (loki["uid"], loki["type"], loki["editable"]) == ("fastperf-loki", "loki", False)
    inside, outside = loki["jsonData"]["derivedFields"]
    assert inside["datasourceUid"] in sources("provisioning/datasources/fastperf.yaml")
    assert {field["matcherType"] for field in (inside, outside)} == {"label"}
    assert {field["matcherRegex"] for field in (inside, outside)} == {"trace_id"}
    assert outside["url"] == "${JAEGER_URL}/trace/$${__value.raw}"


def test_without_the_log_store_grafana_removes_its_data_source() -> None:
    assert yaml.safe_load((GRAFANA / "logs" / "loki.yaml").read_text())["prune"] is True
    assert sources("provisioning/datasources/logs.yaml") == {}


@needs("loki")
def test_loki_accepts_the_configuration(tmp_path: Path) -> None:
    done = subprocess.run(
        [program("loki"), f"-config.file={CONFIG}", "-config.expand-env=true", "-verify-config"],
        env=variables(tmp_path, 1, 2),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# A real app, collector and Loki


@dataclass
class Observed:
    """What a request of a real app left in Loki."""

    loki: Loki
    trace_id: str
    folder: Path


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """An app that logs and has a finding, with the shipped collector and Loki."""
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        loki = stack.enter_context(running_loki(folder))
        of_collector = {"LOGS_ENDPOINT": loki.otlp}
        collector = stack.enter_context(running_collector(folder, ["logs"], variables=of_collector))
        yield Observed(loki, _request(collector.endpoint), folder)


def _request(endpoint: str) -> str:
    """Send a request to an app that exports its log records there; the id of its trace."""
    app = FastAPI()

    @app.get("/pay/{order}")
    def pay(order: int) -> None:
        logging.getLogger("shop").warning("order %d refused with %s", order, SECRET, extra={"shop": "oslo"})

    settings = Settings(
        service_name="shop",
        traces={"exporter": "none", "base_endpoint": endpoint},
        logs={"exporter": "otlp"},
    )
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app) as client:
        telemetry.add_detector(lambda _request: [FOUND])
        client.get("/pay/7")
        return _trace_id(telemetry)


FOUND: Final = Finding(kind=Kind.SLOW_QUERY, severity=Severity.WARNING, subject="s", message="m", remedy="r")


def _trace_id(telemetry: Telemetry) -> str:
    (span,) = telemetry.spans()
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}"


@needs("collector", "loki")
def test_the_query_behind_a_span_finds_the_records_of_its_trace_and_no_secret(observed: Observed) -> None:
    settings = sources("provisioning/datasources/fastperf.yaml")["fastperf-jaeger"]["jsonData"]["tracesToLogsV2"]
    assert settings["datasourceUid"] in sources("logs/loki.yaml")
    assert settings["tags"] == [{"key": "service.name", "value": "service_name"}]
    # as Grafana fills it in, after the $$ of provisioning
    query = settings["query"].replace("$$", "$").replace("${__tags}", 'service_name="shop"')
    query = query.replace("${__trace.traceId}", observed.trace_id)
    assert "$" not in query
    records = wait_until(lambda: _all(observed.loki, query, 2), seconds=60, what="the record and the finding")
    [said] = [record for record in records if "refused" in record.text]
    assert said.text == "order 7 refused with ****"
    assert said.labels["trace_id"] == observed.trace_id
    assert (said.labels["shop"], said.labels["http_route"]) == ("oslo", "/pay/{order}")


def _all(loki: Loki, query: str, number: int) -> list[Any]:
    found = loki.records(query)
    return found if len(found) >= number else []


@needs("collector", "loki")
def test_a_finding_is_found_by_its_kind(observed: Observed) -> None:
    query = '{service_name="shop"} | fastperf_finding_kind = `slow_query`'
    [finding] = wait_until(lambda: observed.loki.records(query), seconds=60, what="the finding")
    assert finding.labels["trace_id"] == observed.trace_id
    assert finding.labels["fastperf_finding_remedy"] == "r"
    assert finding.labels["detected_level"] == "warn"


@needs("collector", "loki")
def test_a_process_makes_no_stream_of_its_own(observed: Observed) -> None:
    wait_until(lambda: observed.loki.records('{service_name="shop"}'), seconds=60, what="a record")
    assert set(observed.loki.ask("labels")["data"]) == {"service_name"}


@needs("collector", "loki", "prometheus")
def test_an_alert_fires_if_the_log_store_is_down(tmp_path: Path) -> None:
    port = free_port()
    with stack_prometheus(tmp_path, quick=True) as prometheus:
        targets = (DEPLOY / "loki" / "targets.yml").read_text().replace("loki:3100", f"127.0.0.1:{port}")
        # read again without a reload
        (tmp_path / "prometheus" / "logs" / "loki.yml").write_text(targets)
        with running_loki(tmp_path, port=port):
            wait_until(lambda: prometheus.query('up{job="loki"} == 1'), seconds=60, what="Loki is scraped")
        firing = 'ALERTS{alertname="LokiDown", alertstate="firing"}'
        wait_until(lambda: prometheus.query(firing), seconds=60, what="the alert fires")
