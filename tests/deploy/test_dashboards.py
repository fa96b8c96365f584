"""The shipped dashboards and Grafana's provisioning: linter rules, and that every queried name exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

from otel_fastperf.findings import Kind
from otel_fastperf.metrics import CATALOGUE
from otel_fastperf.requests.time_budget import Segment
from tests.deploy.panels import Window, flat
from tests.deploy.promql import COUNTERS, KNOWN, OURS, missing, selectors
from tests.deploy.servers import DEPLOY, GRAFANA
from tools.dashboards import __main__ as generator
from tools.dashboards.findings import MEANINGS
from tools.dashboards.panels import SEGMENTS

BOARDS: Final = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
NAMES: Final = ("overview", "fleet", "route", "database", "runtime", "findings", "telemetry")
PANELS: Final = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in BOARDS.items()
    for panel in flat(board)
    if panel["type"] != "row"
]
QUERIES: Final = [
    pytest.param(target["expr"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, board in BOARDS.items()
    for panel in flat(board)
    for target in panel.get("targets", ())
]
#: values of the variables with a chosen service and route
WINDOW: Final = Window(0, 3600, {"job": "shop", "instance": ".+", "route": "/orders", "method": "GET"})


def test_there_is_a_file_for_each_dashboard() -> None:
    assert set(BOARDS) == set(NAMES)


def test_the_committed_files_are_up_to_date() -> None:
    assert generator.main(["--check"]) == 0


def test_the_check_lists_stale_and_superfluous_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "FOLDER", tmp_path)
    assert generator.main([]) == 0
    (tmp_path / "route.json").write_text("{}")
    (tmp_path / "old.json").write_text("{}")
    assert generator.main(["--check"]) == 1
    assert "route.json" in (said := capsys.readouterr().err)
    assert "old.json" in said
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_can_be_provisioned_into_any_grafana(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"fastperf-{name}"
    assert board["id"] is None
    assert board["editable"] is False
    assert board["graphTooltip"] == 1
    assert board["schemaVersion"] >= 39
    assert board["tags"] == ["fastperf"]
    assert not {"__inputs", "__requires"} & board.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_the_variables_that_alerts_and_links_set(name: str) -> None:
    variables = {one["name"]: one for one in BOARDS[name]["templating"]["list"]}
    assert {"datasource", "job", "instance"} <= variables.keys()
    assert {"route", "method"} & set(variables) == ({"route", "method"} if name == "route" else set())
    assert variables["datasource"]["label"] == "Data Source"
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for one in variables.values():
        if one["type"] == "query":
            assert one["multi"]
            assert one["includeAll"]
            assert one["allValue"] == ".+"
            assert one["datasource"]["uid"] == "${datasource}"
            assert one["refresh"] == 2, "a new instance shows without a reload of the page"


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_links_to_the_others_and_keeps_time_and_variables(name: str) -> None:
    (link,) = (one for one in BOARDS[name]["links"] if one["type"] == "dashboards")
    assert link["tags"] == ["fastperf"]
    assert link["keepTime"]
    assert link["includeVars"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_unique_ids_and_do_not_overlap(name: str) -> None:
    panels = [*flat(BOARDS[name])]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for place in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert place not in taken, f"{panel['title']} lies over {taken[place]}"
            taken[place] = panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_the_sdk_reads_and_writes_a_dashboard_without_loss(name: str) -> None:
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARDS[name])))
    assert _essence(read) == _essence(BOARDS[name])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_title_description_unit_and_source(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    if panel["type"] != "text":
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert _units(panel)
        assert set(_units(panel)) <= _known_units()
    letters = [target["refId"] for target in panel.get("targets", ())]
    assert len(set(letters)) == len(letters)
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", ()))


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_uses_metrics_and_labels_that_exist(expr: str) -> None:
    assert missing(WINDOW.substituted(expr), KNOWN) == set()


@pytest.mark.parametrize("expr", QUERIES)
def test_a_query_filters_by_the_chosen_services_and_instances(expr: str) -> None:
    for selector in selectors(WINDOW.substituted(expr)):
        if selector.metric in OURS.keys() | {"scrape_duration_seconds", "scrape_samples_scraped"}:
            assert (selector.matchers["job"], selector.matchers["instance"]) == ("shop", ".+"), selector
        elif ":" in selector.metric:
            assert selector.matchers["job"] == "shop", selector
            assert "instance" not in selector.matchers, "what is recorded per service has no instance"
        else:
            assert "job" in selector.matchers, selector


@pytest.mark.parametrize("expr", QUERIES)
def test_a_counter_is_inside_a_rate_or_counted_since_its_creation(expr: str) -> None:
    for selector in selectors(WINDOW.substituted(expr)):
        if selector.metric in COUNTERS:
            grown = selector.window and selector.inside[-1] in {"rate", "increase"}
            assert grown or "unless" in selector.inside, f"{selector.metric} is a bare counter"


@pytest.mark.parametrize("expr", QUERIES)
def test_a_rate_has_a_window_that_grows_with_the_time_range(expr: str) -> None:
    windows = re.findall(r"(?:rate|increase)\([^\[]*\[([^\]]+)\]", expr)
    assert set(windows) <= {"$__rate_interval", "$__range"}


LINES: Final = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{name}-{panel['title']}-{target['refId']}")
    for name, board in BOARDS.items()
    for panel in flat(board)
    for target in panel.get("targets", ())
    if "legendFormat" in target
]
OF_EACH_WORKER: Final = {metric.name for metric in CATALOGUE if metric.merge == "worker"}


@pytest.mark.parametrize(("expr", "legend"), LINES)
def test_the_legend_tells_workers_apart_where_their_values_are_not_summed(expr: str, legend: str) -> None:
    shown = {selector.metric for selector in selectors(WINDOW.substituted(expr))} & OF_EACH_WORKER
    assert bool(shown and " by (" not in expr) == ("{{worker}}" in legend)


def test_every_segment_has_a_colour_and_every_kind_of_finding_a_meaning() -> None:
    assert SEGMENTS.keys() == {segment.value for segment in Segment}
    assert MEANINGS.keys() == {kind.value for kind in Kind}


@pytest.mark.parametrize("name", NAMES)
def test_links_point_to_existing_dashboards_or_to_a_search_in_jaeger(name: str) -> None:
    found = [*_links(BOARDS[name])]
    assert found or name == "telemetry"
    for url in found:
        if url.startswith("/d/"):
            uid = url.removeprefix("/d/").partition("?")[0]
            assert uid.removeprefix("fastperf-") in BOARDS
            assert "${__url_time_range}" in url
            assert "var-datasource=${datasource}" in url
        else:
            assert urlsplit(url).path == "/explore"
            (panes,) = parse_qs(urlsplit(url).query)["panes"]
            (query,) = json.loads(unquote(panes))["a"]["queries"]
            assert query["datasource"] == {"type": "jaeger", "uid": "${jaeger}"}
            assert query["queryType"] == "search"
            assert query["service"].startswith("${")


def _provisioned() -> dict[str, dict[str, Any]]:
    text = (GRAFANA / "provisioning" / "datasources" / "fastperf.yaml").read_text()
    return {source["uid"]: source for source in yaml.safe_load(text)["datasources"]}


def test_the_data_sources_have_fixed_uids_and_are_read_only() -> None:
    sources = _provisioned()
    assert {"fastperf-prometheus", "fastperf-jaeger"} <= sources.keys()
    assert all(source["editable"] is False for source in sources.values())
    assert [uid for uid, source in sources.items() if source.get("isDefault")] == ["fastperf-prometheus"]


def test_the_data_source_has_prometheus_s_scrape_interval() -> None:
    settings = _provisioned()["fastperf-prometheus"]["jsonData"]
    assert settings["httpMethod"] == "POST"
    scraping = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert settings["timeInterval"] == scraping


def test_an_exemplar_links_to_its_trace_in_grafana_and_in_jaeger() -> None:
    sources = _provisioned()
    inside, outside = sources["fastperf-prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert inside["datasourceUid"] in sources
    # `trace_id` is the label that otel_fastperf uses: see tests/exposition
    assert inside["name"] == outside["name"] == "trace_id"
    assert outside["url"] == "${JAEGER_URL}/trace/$${__value.raw}", "Grafana fills in the first, the click the second"


def test_a_trace_links_to_the_metrics_of_its_service() -> None:
    sources = _provisioned()
    settings = sources["fastperf-jaeger"]["jsonData"]["tracesToMetrics"]
    assert settings["datasourceUid"] in sources
    assert settings["tags"] == [{"key": "service.name", "value": "job"}]
    for query in settings["queries"]:
        assert "{$$__tags}" in query["query"]
        asked = selectors(query["query"].replace("{$$__tags}", '{job="shop"}'))
        assert all(one.metric in OURS for one in asked)


def test_the_dashboards_are_read_from_files_and_cannot_be_changed() -> None:
    text = (GRAFANA / "provisioning" / "dashboards" / "fastperf.yaml").read_text()
    (provider,) = yaml.safe_load(text)["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def _essence(board: dict[str, Any]) -> dict[str, Any]:
    """The queries and positions of a dashboard: the SDK adds defaults, and drops fields that it does not know."""
    return {
        "uid": board["uid"],
        "variables": [(one["name"], one["type"], one["query"]) for one in board["templating"]["list"]],
        "panels": [
            (
                panel["id"],
                panel["type"],
                panel["title"],
                panel["gridPos"],
                [(target["refId"], target["expr"]) for target in panel.get("targets") or ()],
                panel.get("fieldConfig", {}).get("overrides"),
            )
            for panel in flat(board)
        ],
    }


def _units(panel: dict[str, Any]) -> list[str]:
    """Units of a panel's values: its own, or those of table columns and the axis of a heatmap."""
    config = panel["fieldConfig"]
    overrides = [
        one["value"] for override in config["overrides"] for one in override["properties"] if one["id"] == "unit"
    ]
    own = config["defaults"].get("unit") or panel["options"].get("yAxis", {}).get("unit")
    return [*overrides, *([own] if own else [])]


def _known_units() -> set[object]:
    return {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}


def _links(board: dict[str, Any]) -> Iterator[str]:
    yield from (link["url"] for link in board["links"] if link["type"] == "link")
    for panel in flat(board):
        config = panel.get("fieldConfig", {"defaults": {}, "overrides": ()})
        yield from (link["url"] for link in config["defaults"].get("links", ()))
        for override in config["overrides"]:
            for one in override["properties"]:
                yield from (link["url"] for link in one["value"]) if one["id"] == "links" else ()
