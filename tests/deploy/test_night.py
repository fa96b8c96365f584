"""The drill of a bad night (tests/deploy/night) with a clock that is 15 times faster, and that clock.

What comes is asserted by name; how long it takes with the clock of the shipped rules is in deploy/README.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.deploy.night.__main__ import BEGIN, END, README, with_table
from tests.deploy.night.clock import Clock, seconds
from tests.deploy.night.drill import Outcome, run, wait_for_ends
from tests.deploy.night.faults import PROMETHEUS_RESTARTED, TRACKS, Fault
from tests.deploy.night.stack import Stack, running_stack
from tests.deploy.night.table import table
from tests.deploy.night.watch import Told
from tests.deploy.promql import RULES
from tests.deploy.servers import DEPLOY, needs

FASTER: Final = 15.0
#: shipped alerts go on for up to 30 minutes after their reason has ended: here for 10 seconds
FORGETS: Final = 12.0
#: for an alert to come or to end, on a machine that does other things too
PATIENCE_SECONDS: Final = 120.0

#: without what needs a quiet machine
STRUCK: Final = [[fault for fault in track if not fault.needs_quiet] for track in TRACKS]
FAULTS: Final = [
    fault for track in STRUCK for one in track for fault in (one, *one.meanwhile) if fault is not PROMETHEUS_RESTARTED
]


@dataclass(frozen=True)
class Night:
    """The stack after the faults."""

    stack: Stack
    outcomes: dict[str, Outcome]
    #: alerts that have not ended
    left: list[Told]
    table: str


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    with running_stack(tmp_path_factory.mktemp("night"), Clock(FASTER, FORGETS)) as stack:
        outcomes = run(stack, patience=PATIENCE_SECONDS, tracks=STRUCK)
        left = wait_for_ends(stack, outcomes, PATIENCE_SECONDS)
        yield Night(stack, {out.fault.name: out for out in outcomes}, left, table(stack, outcomes))


def _outcome(night: Night, fault: Fault) -> Outcome:
    if fault.needs_disk and night.stack.disk is None:
        pytest.skip("fills a disk that it mounts, for which it must be root")
    return night.outcomes[fault.name]


night_needs = needs("collector", "jaeger", "prometheus", "alertmanager")
patient = pytest.mark.timeout(900)


@night_needs
@patient
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_is_told(night: Night, fault: Fault) -> None:
    outcome = _outcome(night, fault)
    told = {alert.name: found is not None for alert, found in zip(fault.alerts, outcome.told, strict=True)}
    assert all(told.values()), f"{told}\n{night.table}"


@night_needs
@patient
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_alerts_end_after_the_fault(night: Night, fault: Fault) -> None:
    assert not [told for told in _outcome(night, fault).told if told in night.left], night.table


@night_needs
@patient
def test_each_page_is_sent(night: Night) -> None:
    pages = [told for out in night.outcomes.values() for told in out.told if told and told.severity == "page"]
    assert len(pages) == 4
    assert all(night.stack.watch.message(told) for told in pages), night.table


@night_needs
@patient
def test_a_quiet_service_with_a_few_failures_pages_nobody(night: Night) -> None:
    assert any(one.failed for one in night.stack.services["quiet"].shoppers.requests)
    burning = [told for told in night.stack.watch.told if "Burn" in told.name and told.labels["job"] == "quiet"]
    assert burning == []


@night_needs
@patient
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.keeps_traces], ids=lambda fault: fault.name)
def test_no_trace_is_lost(night: Night, fault: Fault) -> None:
    outcome = _outcome(night, fault)
    assert not outcome.missing, f"{len(outcome.missing)} of {len(outcome.requests)}"


@night_needs
@patient
def test_an_alert_that_fires_goes_on_when_prometheus_starts_again(night: Night) -> None:
    [down] = [told for told in night.outcomes["Jaeger is down"].told if told is not None]
    restarted = night.outcomes[PROMETHEUS_RESTARTED.name]
    assert down.fired < restarted.began
    assert down.ended is None or down.ended > restarted.ended
    resolved = night.stack.watch.message(down, "resolved")
    assert resolved is None or resolved.at > restarted.ended


@night_needs
@patient
def test_a_collector_that_is_down_is_one_ticket_and_not_one_for_each_service(night: Night) -> None:
    outcome = night.outcomes["the collector is down"]
    failing = [
        message
        for message in night.stack.watch.messages()
        if message.labels["alertname"] == "FastperfExportFailing" and outcome.began < message.at < outcome.ended
    ]
    assert failing == []


@night_needs
@patient
def test_the_table_has_a_row_for_each_fault_and_all_that_was_said(night: Night) -> None:
    rows = [line for line in night.table.splitlines() if line.startswith("| ")]
    for name, outcome in night.outcomes.items():
        assert any(row.startswith(f"| {name} |") for row in rows)
        for told in outcome.told:
            assert told is None or told.annotations["description"] in night.table


# The clock


def test_a_clock_that_is_not_faster_changes_nothing() -> None:
    for path in RULES:
        assert Clock().rewritten(path.read_text()) == path.read_text()


def _numbers(text: str) -> list[float]:
    """Seconds of the durations in an expression, and its numbers of a minute or more."""
    text = re.sub(r"\w+:\w+(?::\w+)?|\"[^\"]*\"", "", text)
    text = re.sub(r"\b(\d+) \* (\d+)\b", lambda found: str(int(found[1]) * int(found[2])), text)
    durations = re.findall(r"(?<=[\[ ])((?:\d+(?:ms|[smhd]))+)\b", text)
    plain = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)(?![\w.])", text)
    return [_seconds(one) for one in durations] + [float(one) for one in plain if float(one) >= 60]


def _seconds(duration: str) -> float:
    return float(duration[:-2]) / 1000 if duration.endswith("ms") else seconds(duration)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_a_faster_clock_divides_each_duration_and_each_number_of_seconds(path: Path) -> None:
    """No window, wait or constant of a rule is left behind, also of rules to come."""
    shipped, faster = (yaml.safe_load(text) for text in (path.read_text(), Clock(2).rewritten(path.read_text())))
    for old_group, new_group in zip(shipped["groups"], faster["groups"], strict=True):
        assert ("interval" in old_group) == ("interval" in new_group)
        for old, new in zip(old_group["rules"], new_group["rules"], strict=True):
            for key in {"for", "keep_firing_for"} & set(old):
                assert _seconds(new[key]) == seconds(old[key]) / 2
            halves = [pytest.approx(one / 2) for one in _numbers(old["expr"])]
            assert _numbers(new["expr"]) == halves
            assert old.get("annotations") == new.get("annotations")
            assert old.get("record") == new.get("record")


def test_a_faster_clock_divides_the_intervals_of_configurations_and_stops_at_a_second() -> None:
    prometheus = yaml.safe_load(Clock(15).rewritten((DEPLOY / "prometheus" / "prometheus.yml").read_text()))["global"]
    assert [prometheus[key] for key in ("scrape_interval", "scrape_timeout", "evaluation_interval")] == [
        "1000ms",
        "1000ms",
        "2000ms",
    ]
    alertmanager = yaml.safe_load(Clock(15).rewritten((DEPLOY / "alertmanager" / "alertmanager.yml").read_text()))
    assert alertmanager["route"]["group_wait"] == "2000ms"
    assert {route.get("group_wait") for route in alertmanager["route"]["routes"]} == {"1000ms", "4000ms", "0ms", None}


# The page


def test_the_page_has_a_table_that_the_drill_replaces() -> None:
    page = README.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    replaced = with_table(page, "| new |")
    assert replaced.count("| new |") == 1
    assert replaced.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert replaced.partition(END)[2] == page.partition(END)[2]


def test_the_table_on_the_page_names_each_fault() -> None:
    shown = README.read_text().partition(BEGIN)[2].partition(END)[0]
    named = {line.split(" | ")[0].removeprefix("| ") for line in shown.splitlines() if line.startswith("| ")}
    assert {fault.name for track in TRACKS for one in track for fault in (one, *one.meanwhile)} <= named
