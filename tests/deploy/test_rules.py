"""Recordings, objectives and alerts, checked by promtool, against the catalogue, and by a running Prometheus."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from otel_fastperf import setup_telemetry
from otel_fastperf.findings import Kind
from otel_fastperf.metrics import HTTP_SECONDS
from otel_fastperf.settings import Settings
from otel_fastperf.tracing.buffer import Outcome
from tests.deploy.prometheus import VARIABLES, stack_prometheus
from tests.deploy.promql import (
    COUNTERS,
    KNOWN,
    RECORDINGS,
    RULES,
    TARGET,
    Selector,
    labels_of,
    missing,
    rules,
    selectors,
)
from tests.deploy.servers import DEPLOY, ROOT, needs, program
from tests.prometheus import Prometheus
from tests.serving import wait_until
from tools.servers import built
from tools.stack_metrics import PROMETHEUS_ALWAYS, PROMETHEUS_OF_TARGETS, PROMETHEUS_WITH_ALERTS, Series

FOLDER: Final = DEPLOY / "prometheus"
RUNBOOKS: Final = DEPLOY / "runbooks"
CASES: Final = sorted((FOLDER / "tests").glob("*_test.yml"))
DASHBOARDS: Final = {
    f"fastperf-{name}" for name in ("overview", "fleet", "route", "database", "runtime", "findings", "telemetry")
}
Rule = dict[str, Any]
ALERTS: Final = rules("alert")
NAMES: Final = sorted({alert["alert"] for alert in ALERTS})


def _promtools() -> list[Any]:
    """The promtool of Prometheus 3, and Debian's of Prometheus 2 if installed."""
    debian, ours = shutil.which("promtool"), built("prometheus", "promtool")
    return [
        pytest.param(debian, marks=pytest.mark.skipif(debian is None, reason="no promtool on the PATH"), id="debian"),
        pytest.param(str(ours), marks=needs("prometheus"), id="built"),
    ]


def _run(*command: object, variables: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(params=_promtools())
def promtool(request: pytest.FixtureRequest) -> str:
    path: str = request.param
    return path


# by promtool


def test_rules_pass_all_lints(promtool: str) -> None:
    _run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_cases_of_promtool_pass(promtool: str, case: Path) -> None:
    assert "SUCCESS" in _run(promtool, "test", "rules", case)


@needs("prometheus")
def test_the_configuration_is_valid() -> None:
    _run(program("prometheus", "promtool"), "check", "config", FOLDER / "prometheus.yml", variables=dict(VARIABLES))


def _cases() -> Iterator[tuple[str, list[Any]]]:
    for path in CASES:
        for group in yaml.safe_load(path.read_text())["tests"]:
            for test in group.get("alert_rule_test", ()):
                yield test["alertname"], test.get("exp_alerts") or []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Watchdog"])
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(name: str) -> None:
    outcomes = {bool(expected) for alert, expected in _cases() if alert == name}
    assert outcomes == {True, False}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_evaluate_rules_within_the_lookback_of_a_query(path: Path) -> None:
    """Otherwise the outcome depends on promtool's order of the groups, which is random."""
    interval = yaml.safe_load(path.read_text())["evaluation_interval"]
    assert re.fullmatch(r"[1-4]m|\d+s", interval)


def test_each_severity_of_each_alert_has_a_case_in_which_it_fires() -> None:
    fired = {(alert, one["exp_labels"]["severity"]) for alert, expected in _cases() for one in expected}
    assert fired == {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}


def test_each_kind_of_finding_has_a_case_in_which_it_fires() -> None:
    fired = {
        one["exp_labels"].get("kind") for alert, expected in _cases() if alert == "FastperfFinding" for one in expected
    }
    assert set(map(str, Kind)) <= fired


def test_annotations_of_alerts_are_complete_in_all_cases() -> None:
    said = [text for _, expected in _cases() for one in expected for text in one["exp_annotations"].values()]
    assert said
    assert not [text for text in said if "<error" in text or "<no value>" in text or "%!" in text]


SERVICE: Final = """
rule_files: [slo-targets.yml, slo.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'fastperf_build_info{job="my-service"}', values: "1x20"}
      - {series: 'fastperf_build_info{job="other"}', values: "1x20"}
      - series: 'http_server_request_duration_seconds_bucket{job="my-service", error_type="", le="1.0"}'
        values: "0+9x20"
      - {series: 'http_server_request_duration_seconds_count{job="my-service", error_type=""}', values: "0+10x20"}
    promql_expr_test:
      - expr: job:slo_availability:objective
        eval_time: 15m
        exp_samples:
          - {labels: 'job:slo_availability:objective{job="my-service"}', value: 0.9995}
          - {labels: 'job:slo_availability:objective{job="other"}', value: 0.999}
      - expr: job_le:slo_latency_threshold:info
        eval_time: 15m
        exp_samples:
          - {labels: 'job_le:slo_latency_threshold:info{job="my-service", le="1.0"}', value: 1}
          - {labels: 'job_le:slo_latency_threshold:info{job="other", le="0.5"}', value: 1}
      - expr: round(job:slo_latency_errors:ratio_rate5m * 100)
        eval_time: 15m
        exp_samples: [{labels: '{job="my-service"}', value: 10}]
"""


def test_a_service_can_have_its_own_objectives(promtool: str, tmp_path: Path) -> None:
    """Uses the block that is a comment in slo-targets.yml, without the #."""
    text = (FOLDER / "rules" / "slo-targets.yml").read_text()
    (tmp_path / "slo-targets.yml").write_text(re.sub(r"^  # (?=- name: |  )", "  ", text, flags=re.MULTILINE))
    shutil.copy(FOLDER / "rules" / "slo.yml", tmp_path)
    (tmp_path / "test.yml").write_text(SERVICE)
    _run(promtool, "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "slo-targets.yml")
    assert "SUCCESS" in _run(promtool, "test", "rules", tmp_path / "test.yml")


def test_the_comment_about_retired_jobs_is_a_rule_that_works() -> None:
    lines = (FOLDER / "rules" / "retired.yml").read_text().replace("groups: []\n", "groups:\n").splitlines()
    text = "\n".join(line.replace("  # ", "  ", 1) for line in lines if not line.startswith("#"))
    shown = yaml.safe_load(text)
    shipped = yaml.safe_load((FOLDER / "jaeger-only" / "retired.yml").read_text())
    shown["groups"][0]["rules"][0]["labels"]["job"] = "otel-collector"
    assert shown == shipped


# against the catalogue


def _expressions() -> list[Any]:
    recordings = [pytest.param(text, id=name) for name, text in RECORDINGS.items()]
    alerts = [pytest.param(alert["expr"], id=f"{alert['alert']}-{number}") for number, alert in enumerate(ALERTS)]
    pages = [
        pytest.param(query.strip(), id=f"{page.stem}-{number}")
        for page in sorted(RUNBOOKS.glob("*.md"))
        for number, query in enumerate(re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL))
    ]
    return [*recordings, *alerts, *pages]


@pytest.mark.parametrize("expression", _expressions())
def test_queries_of_rules_and_runbooks_use_metrics_and_labels_that_exist(expression: str) -> None:
    assert missing(expression, KNOWN) == set()
    bounds = {selector.matchers["le"] for selector in selectors(expression) if "le" in selector.matchers}
    assert all("." in bound for bound in bounds), "Prometheus 3 writes 1 as 1.0"


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_are_named_level_metric_operation(name: str) -> None:
    assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", name)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_have_severity_annotations_and_links(alert: Rule) -> None:
    annotations = alert["annotations"]
    assert alert["labels"]["severity"] in {"page", "ticket", "info"}
    assert set(annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert annotations["runbook_url"] == f"{{{{ $externalLabels.runbooks_url }}}}/{alert['alert']}.md"
    assert (RUNBOOKS / f"{alert['alert']}.md").is_file()
    assert annotations["dashboard_url"].startswith("{{ $externalLabels.grafana_url }}/d/")
    uids = set(re.findall(r"fastperf-\w+", annotations["dashboard_url"]))
    assert uids
    assert uids <= DASHBOARDS


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_use_no_label_that_their_expression_drops(alert: Rule) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    assert named <= (labels_of(alert["expr"], KNOWN) or frozenset()) | set(alert["labels"])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_no_alert_looks_back_for_what_is_missing(alert: Rule) -> None:
    """It would end with the look-back, in the middle of the outage; services.yml remembers."""
    targets = {"up", "fastperf_build_info"}
    assert not [one for one in selectors(alert["expr"]) if one.window and one.metric in targets]


def test_only_alerts_on_symptoms_of_users_are_pages() -> None:
    pages = {alert["alert"] for alert in ALERTS if alert["labels"]["severity"] == "page"}
    assert pages == {"FastperfAvailabilityBurn", "FastperfLatencyBurn", "FastperfAllTargetsDown"}


def test_the_latency_threshold_is_a_bound_of_the_buckets() -> None:
    assert float(RECORDINGS["job:slo_latency_threshold:seconds"].rpartition(" * ")[2]) in HTTP_SECONDS


def test_the_file_of_objectives_lists_the_bucket_bounds() -> None:
    text = re.sub(r"\n\s+# ", " ", (FOLDER / "rules" / "slo-targets.yml").read_text())
    named = re.search(r"http_server_request_duration_seconds: ([\d. ]+)\. ", text)
    assert named is not None
    assert tuple(map(float, named.group(1).split())) == HTTP_SECONDS


# counters that are born late

#: counters with labels whose series are all there, at 0, before anything is counted
BORN_AT_ZERO: Final = {"fastperf_gc_pause_seconds_sum", "fastperf_spans_total"}
_ONE: Final = "exp_samples: [{labels: '{}', value: 1}]"
_BIRTHS: Final = """
rule_files: {rules}
evaluation_interval: 30s
tests:
  - interval: 15s
    input_series:
      - {{series: 'up{{job="shop", instance="a:80"}}', values: "1x200"}}
      - {{series: 'process_start_time_seconds{{job="shop", instance="a:80"}}', values: "-9000x200"}}
      - {{series: 'fastperf_build_info{{job="shop", instance="a:80"}}', values: "1x200"}}
{born}
    promql_expr_test:
{expected}
"""


def _rated(expression: str) -> list[Selector]:
    """The counters with labels of their own whose increase an expression measures."""
    return [
        one
        for one in selectors(expression)
        if one.metric in COUNTERS - BORN_AT_ZERO and KNOWN[one.metric] - TARGET - {"le"}
    ]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_leave_counters_that_are_born_late_to_recordings(alert: Rule) -> None:
    """A counter that is born at 200 has no rate; only a recording that counts births sees the 200 events."""
    assert _rated(alert["expr"]) == []


def test_recordings_count_what_a_counter_is_born_with(promtool: str, tmp_path: Path) -> None:
    measuring = {name: _rated(expression) for name, expression in RECORDINGS.items() if _rated(expression)}
    assert len(measuring) > 10
    born = {_born(one) for found in measuring.values() for one in found}
    expected = [f"      - {{expr: 'count({name} > 0) > bool 0', eval_time: 20m, {_ONE}}}" for name in measuring]
    inputs = [f"      - {{series: '{series}', values: \"_x80 200x100\"}}" for series in sorted(born)]
    text = _BIRTHS.format(rules=list(map(str, RULES)), born="\n".join(inputs), expected="\n".join(expected))
    (tmp_path / "test.yml").write_text(text)
    assert "SUCCESS" in _run(promtool, "test", "rules", tmp_path / "test.yml")


def _born(one: Selector) -> str:
    """A series that the selector finds. A pattern of values that it leaves out is itself none of these values."""
    own = {label: one.matchers.get(label, "x") for label in KNOWN[one.metric] - TARGET}
    own |= {"le": "0.5"} if "le" in own else {}
    text = ", ".join(f'{label}="{value}"' for label, value in sorted(own.items()))
    return f'{one.metric}{{job="shop", instance="a:80", {text}}}'


def test_other_counters_of_alerts_are_there_at_zero_when_the_app_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    app = FastAPI()
    telemetry = setup_telemetry(app)
    with TestClient(app) as client:
        page = client.get("/metrics").text
    telemetry.shutdown()
    for outcome in Outcome:
        assert f'fastperf_spans_total{{outcome="{outcome}"}} 0.0' in page
    for generation in range(3):
        assert f'fastperf_gc_pause_seconds_sum{{generation="{generation}"}}' in page


# runbooks


def test_every_runbook_belongs_to_an_alert_and_is_in_the_index() -> None:
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md") if page.stem != "README") == NAMES
    assert sorted(set(re.findall(r"\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text()))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_and_the_index_name_the_severities_of_the_alert(name: str) -> None:
    severities = {alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == name}
    first = (RUNBOOKS / f"{name}.md").read_text().splitlines()[2]
    words = [word for bold in re.findall(r"\*\*(.*?)\*\*", first) for word in re.split(r"\W+", bold)]
    assert first.startswith("**Severity: ")
    assert {*words} & {"page", "ticket", "info"} == severities
    row = re.search(rf"^\| \[{name}\]\S+ \| ([\w, ]+) \|", (RUNBOOKS / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    assert {*row[1].split(", ")} == severities


def test_limits_named_in_comments_are_the_defaults_of_the_settings() -> None:
    said = re.findall(r"\((\w+)\.(\w+), (\d+) per metric\)", (FOLDER / "prometheus.yml").read_text())
    assert said == [("metrics", "max_series", str(Settings().metrics.max_series))]


def test_the_runbook_of_findings_explains_each_kind() -> None:
    text = (RUNBOOKS / "FastperfFinding.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(../../docs/findings/(\w+)\.md\)", text, re.MULTILINE)
    assert rows == [(kind, kind) for kind in Kind]


def test_findings_page_nobody() -> None:
    """FastperfLatencyBurn does, if users notice."""
    assert {alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == "FastperfFinding"} == {"ticket"}


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_runbooks_point_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).resolve().is_relative_to(ROOT)] == []
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_has_impact_queries_steps_and_an_end(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^## (?!See)(.*)", text, re.MULTILINE) == ["Look", "Do", "Resolved when"]
    assert "**Impact:**" in text
    assert "```promql" in text


# a running Prometheus


@needs("prometheus")
def test_prometheus_runs_the_rules_and_serves_the_runbooks(tmp_path: Path) -> None:
    with stack_prometheus(tmp_path, quick=True, variables={"GRAFANA_URL": "http://g.example"}) as prometheus:
        prometheus_up = 'up{job="prometheus"} == 1'
        wait_until(lambda: prometheus.query(prometheus_up), seconds=60)
        wait_until(lambda: prometheus.query('ALERTS{alertname="Watchdog", alertstate="firing"}'), seconds=60)
        assert {target["labels"]["job"] for target in prometheus.targets()} == {
            *("otel-collector", "jaeger", "prometheus", "alertmanager"),
        }
        assert prometheus.value('scrape_sample_limit{job="prometheus"}') == 10000
        _assert_shown(prometheus, PROMETHEUS_OF_TARGETS | PROMETHEUS_ALWAYS, '{job="prometheus"}')
        _assert_shown(prometheus, PROMETHEUS_WITH_ALERTS)
        url = _annotations(prometheus.url)["runbook_url"]
        assert url == f"{prometheus.url}/consoles/Watchdog.md"
        for page in RUNBOOKS.glob("*.md"):
            with urlopen(f"{prometheus.url}/consoles/{page.name}", timeout=10) as response:
                assert response.read().decode() == page.read_text()
        assert _annotations(prometheus.url)["dashboard_url"] == "http://g.example/d/fastperf-telemetry"
        time.sleep(2)
        assert prometheus.query("prometheus_rule_evaluation_failures_total > 0") == []


def _assert_shown(prometheus: Prometheus, names: Mapping[str, Series], matchers: str = "") -> None:
    for name, series in names.items():
        found = wait_until(lambda query=name + matchers: prometheus.query(query), seconds=30, what=name)
        assert set(series.labels) <= {label for one in found for label in one["metric"]}, name


def _annotations(url: str) -> dict[str, str]:
    with urlopen(f"{url}/api/v1/alerts", timeout=10) as response:
        alerts = yaml.safe_load(response.read())["data"]["alerts"]
    [found] = [alert["annotations"] for alert in alerts if alert["labels"]["alertname"] == "Watchdog"]
    return dict(found)
