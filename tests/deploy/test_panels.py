"""Every panel, run through Grafana's own code with answers that have all labels of its queries.

Checked are the columns of tables, their order and units, that no override has become useless, and the colours of what
fails. `test_main_job.py` does the same with the answers of a real Prometheus.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from itertools import product
from typing import Any, Final

import pytest

from otel_fastperf.requests.time_budget import Segment
from tests.deploy.panels import Window, flat, titles
from tests.deploy.promql import KNOWN, keeps_name, labels_of
from tests.deploy.servers import GRAFANA, needs
from tests.deploy.shown import Answers, Field, Shown, shown

pytestmark = needs("grafana-data")

WINDOW: Final = Window(1_790_000_000, 1_790_003_600, {"job": ".+", "instance": ".+", "route": ".+", "method": ".+"})
#: label -> the values that it has in the answers, where overrides or mappings tell them apart; others have one
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "http_response_status_code": ("101", "200", "304", "404", "500", "503"),
    "outcome": (
        "exported",
        *(f"dropped_{why}" for why in ("queue_full", "rejected", "too_large", "encoding", "exit")),
    ),
    "segment": tuple(segment.value for segment in Segment),
    "severity": ("page", "ticket", "info"),
    "alertstate": ("firing", "pending"),
}

BOARDS: Final = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
PANELS: Final = {
    f"{name}-{panel['title']}": panel
    for name, board in BOARDS.items()
    for panel in flat(board)
    if panel["type"] not in {"row", "text"}
}
TABLES: Final = [name for name, panel in PANELS.items() if panel["type"] == "table"]

#: titles of panels in which each series is a failure
FAILURES: Final = (
    "Failed requests",
    "Failed statements",
    "Pool timeouts",
    "Errors by part",
    "Overflow by metric and label",
    "Failed rules",
)


def answers(panel: Mapping[str, Any]) -> Answers:
    """Series with every label that the queries may return, and two points."""
    return {target["refId"]: _series(target) for target in panel["targets"]}


def _series(target: Mapping[str, Any]) -> list[dict[str, Any]]:
    expr = WINDOW.substituted(target["expr"])
    names = sorted(labels_of(expr, KNOWN) or ())
    own = {"__name__": f"of_{target['refId']}"} if keeps_name(expr) else {}
    # rows of a table have one segment, the largest
    values = [VALUES.get(name, (f"a {name}",)) for name in names]
    if target.get("format") == "table":
        values = [its[:1] if name == "segment" else its for name, its in zip(names, values, strict=True)]
    made = []
    for number, chosen in enumerate(product(*values)):
        points = [[WINDOW.end - 15, f"{number + 1}"], [WINDOW.end, f"{number + 20}"]]
        series: dict[str, Any] = {"metric": own | dict(zip(names, chosen, strict=True))}
        made.append(series | ({"value": points[1]} if target.get("instant") else {"values": points}))
    return made


@cache
def all_shown() -> tuple[Shown, dict[str, list[Field]]]:
    """All panels at once: node and its modules take a second to start."""
    told = shown([(panel, answers(panel)) for panel in PANELS.values()])
    return told, {name: list(fields) for name, fields in zip(PANELS, told.panels, strict=True)}


def fields_of(name: str) -> list[Field]:
    """What a panel shows."""
    return all_shown()[1][name]


def colour(name: str) -> str:
    """The hexadecimal value of a colour of Grafana's."""
    return all_shown()[0].palette[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_columns_that_it_names_in_their_order_and_no_others(name: str) -> None:
    panel, fields = PANELS[name], fields_of(name)
    assert [field.name for field in fields] == titles(panel)
    assert not [field.name for field in fields if re.match(r"Value\b|Time$|.*_", field.name)]
    assert all(field.texts for field in fields)


@pytest.mark.parametrize("name", TABLES)
def test_the_queries_of_a_table_are_one_row_for_each_set_of_labels(name: str) -> None:
    panel, fields = PANELS[name], fields_of(name)
    rows = {len(field.texts) for field in fields}
    expected = {len(series) for series in answers(panel).values()}
    assert rows == {max(expected)}
    assert not [field.name for field in fields if field.kind == "number" and "" in field.texts]


@pytest.mark.parametrize("name", TABLES)
def test_the_column_that_orders_a_table_is_there(name: str) -> None:
    (order,) = PANELS[name]["options"]["sortBy"]
    assert order["displayName"] in [field.name for field in fields_of(name)]


@pytest.mark.parametrize("name", TABLES)
def test_each_number_of_a_table_has_a_unit(name: str) -> None:
    for field in fields_of(name):
        if field.kind == "number":
            assert field.unit, field.name


@pytest.mark.parametrize("name", PANELS)
def test_each_override_matches_a_field(name: str) -> None:
    overrides = PANELS[name]["fieldConfig"]["overrides"]
    matched = {number for field in fields_of(name) for number in field.matched}
    useless = [one["matcher"]["options"] for number, one in enumerate(overrides) if number not in matched]
    assert useless == []


@pytest.mark.parametrize("name", PANELS)
def test_each_series_of_a_graph_has_a_name_that_is_no_list_of_labels(name: str) -> None:
    if PANELS[name]["type"] != "table":
        for field in fields_of(name):
            assert field.name.strip()
            assert "{" not in field.name


@pytest.mark.parametrize("name", [name for name in PANELS if "by status" in name or "and status" in name])
def test_statuses_have_the_colours_of_failure_and_success_has_none(name: str) -> None:
    colours = {field.name.split()[-1]: field.colour for field in fields_of(name)}
    assert colours["500"] == colours["503"] == colour("red")
    assert colours["404"] == colour("orange")
    for status in ("101", "200", "304"):
        assert saturation(colours[status]) < 0.2, "success draws no attention"


@pytest.mark.parametrize("name", [name for name in PANELS if name.partition("-")[2] in FAILURES])
def test_failures_are_red(name: str) -> None:
    if PANELS[name]["type"] == "timeseries":
        assert all(is_red(field.colour) for field in fields_of(name))


def test_spans_that_are_lost_are_red_and_those_that_arrive_are_not() -> None:
    colours = {field.name: field.colour for field in fields_of("telemetry-Spans by outcome")}
    assert {name for name, its in colours.items() if not is_red(its)} == {"exported"}
    sent = {field.name.split()[0]: field.colour for field in fields_of("telemetry-Sent and failed")}
    assert sent == {"sent": colour("green"), "failed": colour("red"), "queue": colour("orange")}


def test_an_alert_has_the_colour_of_its_severity() -> None:
    severity, _alert, _service, state, since = fields_of("overview-Alerts")
    colours = dict(zip(severity.texts, severity.colours, strict=True))
    assert colours == {"page": colour("red"), "ticket": colour("orange"), "info": colour("blue")}
    assert dict(zip(state.texts, state.colours, strict=True)) == {"firing": colour("red"), "pending": colour("yellow")}
    assert all(text.endswith("ago") for text in since.texts)


def test_a_burn_rate_is_red_from_the_threshold_of_a_page_on() -> None:
    (panel,) = (one for name, one in PANELS.items() if name == "overview-Burn rate, 1 h")
    rates = ("0.5", "2", "14.3", "14.4", "100")
    series = [{"metric": {"job": "shop"}, "values": [[WINDOW.end + number, rate] for number, rate in enumerate(rates)]}]
    ((field,),) = shown([(panel, {"A": series})]).panels
    assert [one == colour("red") for one in field.colours] == [False, False, False, True, True]


def test_durations_are_written_with_their_unit() -> None:
    (panel,) = (one for name, one in PANELS.items() if name == "overview-p95")
    ((field,),) = shown([(panel, {"A": [{"metric": {"job": "shop"}, "values": [[WINDOW.end, "0.25"]]}]})]).panels
    assert (field.name, field.texts) == ("shop", ("250 ms",))


def test_a_label_that_a_table_does_not_name_would_be_seen() -> None:
    """The checks above can fail: an answer with a label more has a column more."""
    panel = PANELS["overview-Alerts"]
    more = {"A": [{"metric": {"alertname": "A", "another_label": "b"}, "value": [WINDOW.end, "1"]}]}
    ((*columns,),) = shown([(panel, more)]).panels
    assert "another_label" in [field.name for field in columns]


def channels(value: str) -> tuple[int, int, int]:
    """Red, green and blue of `#rrggbb`."""
    red, green, blue = (int(value[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def saturation(value: str) -> float:
    """How colourful: 0 for grey."""
    return (max(channels(value)) - min(channels(value))) / max(channels(value))


def is_red(value: str) -> bool:
    """Whether red is what is seen."""
    red, green, blue = channels(value)
    return red > 1.3 * max(green, blue)
