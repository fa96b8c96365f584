"""The findings log merges equal findings, sorts the worst first, and is bounded."""

from dataclasses import FrozenInstanceError, replace

import pytest

from otel_fastperf.findings import MOST_TRACES, CallSite, Finding, FindingLog, Kind, Severity

SLOW = Finding(
    kind=Kind.SLOW_QUERY,
    severity=Severity.WARNING,
    subject="SELECT items",
    message="it took 1 s.",
    remedy="add an index",
    evidence={"seconds": 1.0},
    call_site=CallSite("/srv/shop/orders.py", 41, "list_orders"),
    seconds=1.0,
    route="/orders",
    first_seen=100.0,
    last_seen=100.0,
    trace_ids=("a" * 32,),
)


def log_of(*findings: Finding, most: int = 10) -> FindingLog:
    log = FindingLog(most)
    for finding in findings:
        log.add(finding)
    return log


def test_a_finding_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SLOW.count = 2  # type: ignore[misc]


def test_a_call_site_is_shown_as_file_line_and_function() -> None:
    assert str(SLOW.call_site) == "shop/orders.py:41 in list_orders"


def test_equal_findings_are_merged_with_summed_figures() -> None:
    later = replace(SLOW, seconds=3.0, first_seen=200.0, last_seen=200.0, message="it took 3 s.", trace_ids=("b" * 32,))
    (merged,) = log_of(SLOW, later).findings()
    assert (merged.count, merged.seconds, merged.first_seen, merged.last_seen) == (2, 4.0, 100.0, 200.0)
    assert merged.message == "it took 3 s."
    assert merged.trace_ids == ("a" * 32, "b" * 32)


def test_a_merged_finding_keeps_the_message_of_the_slowest_occurrence() -> None:
    (merged,) = log_of(SLOW, replace(SLOW, seconds=0.6, message="it took 0.6 s.")).findings()
    assert merged.message == "it took 1 s."


@pytest.mark.parametrize(
    "other",
    [
        replace(SLOW, kind=Kind.N_PLUS_ONE),
        replace(SLOW, route="/users"),
        replace(SLOW, subject="SELECT users"),
        replace(SLOW, call_site=CallSite("/srv/shop/orders.py", 42, "list_orders")),
        replace(SLOW, call_site=None),
    ],
)
def test_findings_that_differ_in_kind_route_subject_or_line_are_not_merged(other: Finding) -> None:
    assert len(log_of(SLOW, other).findings()) == 2


def test_add_returns_whether_the_finding_is_new() -> None:
    log = FindingLog(10)
    assert [log.add(SLOW), log.add(SLOW), log.add(replace(SLOW, route="/"))] == [True, False, True]


def test_the_worst_comes_first() -> None:
    mild = replace(SLOW, severity=Severity.INFO, subject="mild", seconds=99.0)
    dear = replace(SLOW, subject="dear", seconds=5.0)
    critical = replace(SLOW, severity=Severity.CRITICAL, subject="critical", seconds=0.1)
    assert [each.subject for each in log_of(mild, SLOW, critical, dear).findings()] == [
        "critical",
        "dear",
        "SELECT items",
        "mild",
    ]


def test_the_log_is_bounded_and_reports_dropped_findings() -> None:
    dropped: list[Finding] = []
    log = FindingLog(3, dropped.append)
    for number in range(5):
        log.add(replace(SLOW, subject=str(number)))
    assert {each.subject for each in log.findings()} == {"2", "3", "4"}
    assert [each.subject for each in dropped] == ["0", "1"]


def test_a_finding_that_recurs_is_dropped_last() -> None:
    first, second = replace(SLOW, subject="first"), replace(SLOW, subject="second")
    log = log_of(first, second, first, replace(SLOW, subject="third"), most=2)
    assert {each.subject for each in log.findings()} == {"first", "third"}


def test_only_the_newest_traces_are_kept() -> None:
    (merged,) = log_of(*(replace(SLOW, trace_ids=(str(number),)) for number in range(9))).findings()
    assert merged.trace_ids == tuple(map(str, range(9 - MOST_TRACES, 9)))


def test_evidence_added_later_survives_merging() -> None:
    log = log_of(SLOW, replace(SLOW, route="/users"))
    log.annotate(lambda finding: finding.route == "/orders", {"plan": "Seq Scan"})
    log.add(replace(SLOW, seconds=9.0, evidence={"seconds": 9.0}))
    by_route = {each.route: each.evidence for each in log.findings()}
    assert by_route == {"/orders": {"seconds": 9.0, "plan": "Seq Scan"}, "/users": {"seconds": 1.0}}
