"""The renderer draws the dashboards that ship: from a real Prometheus, and from none of the data."""

import json
import re
import time
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from otel_fastperf.exposition import Exposition
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from tests.deploy.servers import GRAFANA, ROOT
from tests.filled import filled
from tests.prometheus import running_prometheus
from tests.serving import free_port, serve, wait_until
from tools.dashboards.picture.__main__ import main
from tools.dashboards.picture.figures import rows_of
from tools.dashboards.picture.graphs import Box, graph
from tools.dashboards.picture.page import LABEL, flat
from tools.dashboards.picture.prometheus import Answer, Series, Window
from tools.dashboards.picture.values import ticks, written

NAMES: Final = ("overview", "route", "database", "runtime", "findings", "telemetry")
SVG: Final = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn from a Prometheus that scrapes a page on which every metric stands."""
    app = Starlette(routes=[Route("/metrics", Exposition(filled(Metrics()), MetricsSettings(), Guard(print)))])
    out = tmp_path_factory.mktemp("pictures")
    with serve(app) as server:
        job = {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]}
        with running_prometheus(tmp_path_factory.mktemp("prometheus"), [job]) as prometheus:
            prometheus.wait_until_up()
            # a rate needs two scrapes
            wait_until(lambda: prometheus.value("count_over_time(fastperf_build_info[1m]) >= 3"), what="three scrapes")
            assert main(["--prometheus", prometheus.url, "--out", str(out), "--minutes", "5"]) == 0
    return out


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn from a Prometheus that scrapes nothing."""
    out = tmp_path_factory.mktemp("empty")
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), []) as prometheus:
        assert main(["--prometheus", prometheus.url, "--out", str(out), "--minutes", "5"]) == 0
    return out


def _groups(path: Path) -> dict[int, ET.Element]:
    """By the id of its panel, what was drawn of it."""
    root = ET.fromstring(path.read_text())
    return {int(group.attrib["data-panel"]): group for group in root.iter(f"{SVG}g")}


def _panels(name: str) -> list[Any]:
    board = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text())
    return [panel for panel in flat(board) if panel["type"] != "row"]


def _text(group: ET.Element) -> list[str]:
    return [text for element in group.iter(f"{SVG}text") if (text := "".join(element.itertext()))]


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_is_drawn_and_the_picture_says_what_it_is(pictures: Path, name: str) -> None:
    groups = _groups(pictures / f"{name}.svg")
    assert groups.keys() == {panel["id"] for panel in _panels(name)}
    for panel in _panels(name):
        assert len(list(groups[panel["id"]].iter())) > 3, f"{panel['title']} has a title only"
    assert LABEL in _text(ET.fromstring((pictures / f"{name}.svg").read_text()))


def test_what_prometheus_knows_stands_in_the_picture(pictures: Path) -> None:
    drawn = {panel["title"]: _groups(pictures / "telemetry.svg")[panel["id"]] for panel in _panels("telemetry")}
    assert "shop" in _text(drawn["What runs where"])
    assert "100.0 %" in _text(drawn["Scrapes that worked"])
    shapes = {element.tag.removeprefix(SVG) for element in drawn["Samples of a scrape"].iter()}
    assert shapes & {"path", "circle"}, "a line over time, or the first point of it"
    drawn = {panel["title"]: _groups(pictures / "overview.svg")[panel["id"]] for panel in _panels("overview")}
    assert "1" in _text(drawn["Instances up"])


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_without_data_says_so(empty: Path, name: str) -> None:
    groups = _groups(empty / f"{name}.svg")
    for panel in _panels(name):
        if panel["type"] == "text" or "vector(" in json.dumps(panel):
            continue
        words = panel["fieldConfig"]["defaults"].get("noValue", "no data")
        shown = _text(groups[panel["id"]])
        assert words in shown or panel["title"] in OF_PROMETHEUS, (panel["title"], shown)


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_in_the_docs_show_the_panels_that_there_are(name: str) -> None:
    drawn = {number: _text(group)[0] for number, group in _groups(ROOT / "docs" / "dashboards" / f"{name}.svg").items()}
    assert drawn == {panel["id"]: panel["title"] for panel in _panels(name)}, "draw them again: docs/dashboards.md"
    assert f"dashboards/{name}.svg" in (ROOT / "docs" / "dashboards.md").read_text()


def test_a_prometheus_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["--prometheus", url, "--out", str(tmp_path)]) == 1
    assert url in capsys.readouterr().err


#: Prometheus knows these of itself
OF_PROMETHEUS: Final = ("Targets that are up", "Series in Prometheus", "Samples taken in")

PANEL: Final[dict[str, Any]] = {
    "fieldConfig": {
        "defaults": {"unit": "s", "custom": {"stacking": {"mode": "normal"}, "fillOpacity": 70}, "thresholds": {}},
        "overrides": [],
    }
}


def test_a_stack_is_as_high_as_its_series_together() -> None:
    times = (0.0, 15.0, 30.0)
    low = Series("low", {}, tuple((at, 1.0) for at in times))
    high = Series("high", {}, tuple((at, 3.0) for at in times))
    window = Window(0, 30, {})
    drawn = "".join(graph(PANEL, Answer({"A": (low, high)}), window, Box(0, 0, 300, 200)))
    edges = re.findall(r'<path d="M([^"]+)" fill="none"', drawn)
    upper, lower = (float(edge.partition("L")[0].partition(",")[2]) for edge in edges)
    marks = {text: float(y) for y, text in re.findall(r'<text x="[^"]+" y="([^"]+)"[^>]*>([^<]+)</text>', drawn)}
    assert upper + 4 == pytest.approx(marks["4 s"], abs=0.2)
    assert lower + 4 == pytest.approx(marks["1 s"], abs=0.2)


def test_a_table_merges_rows_whose_labels_agree() -> None:
    panel = {
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "renameByName": {"route": "Route", "segment": "Segment", "Value #A": "Share", "Value #B": "Time"},
                    "indexByName": {"route": 0, "segment": 1, "Value #A": 2, "Value #B": 3},
                },
            },
        ]
    }
    share = Series("", {"route": "/a", "segment": "db"}, ((0.0, 0.5),))
    total = [Series("", {"route": route}, ((0.0, seconds),)) for route, seconds in (("/a", 7.0), ("/b", 2.0))]
    columns, rows = rows_of(panel, Answer({"A": (share,), "B": tuple(total)}))
    assert columns == ["Route", "Segment", "Share", "Time"]
    assert rows == [
        {"Route": "/a", "Segment": "db", "Share": 0.5, "Time": 7.0},
        {"Route": "/b", "Time": 2.0},
    ]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.0, "s", "0 s"),
        (90.0, "s", "1.5 min"),
        (0.999, "percentunit", "99.9 %"),
        (3 * 2**20, "bytes", "3 MiB"),
        (12_345.0, "short", "12.3K"),
        (7.5, "reqps", "7.5 req/s"),
        (1234.0, "none", "1,234"),
    ],
)
def test_values_are_written_with_their_unit(value: float, unit: str, expected: str) -> None:
    assert written(value, unit) == expected


@pytest.mark.parametrize(
    ("top", "unit"), [(0.37, "s"), (130.0, "s"), (9.9, "reqps"), (3e8, "bytes"), (1.0, "percentunit")]
)
def test_an_axis_has_few_marks_and_the_last_is_not_below_the_highest_value(top: float, unit: str) -> None:
    marks = ticks(top, unit)
    assert marks[0] == 0
    assert marks[-1] >= top * 0.999
    assert 2 <= len(marks) <= 6


def test_variables_are_put_in_as_grafana_does() -> None:
    window = Window(time.time() - 3600, time.time(), {"job": "shop"})
    text = 'rate(x{job=~"$job"}[$__rate_interval]) + increase(x{job=~"${job:regex}"}[$__range])'
    assert window.substituted(text) == 'rate(x{job=~"shop"}[60s]) + increase(x{job=~"shop"}[3600s])'
    with pytest.raises(KeyError):
        window.substituted("$unknown")
