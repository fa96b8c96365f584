"""`slow_commit`: one COMMIT for each row of a loop, and single ones that take a large share of their requests."""

from otel_fastperf.detectors.slow_commit import SlowCommits
from otel_fastperf.findings import Finding, Severity
from otel_fastperf.requests.record import TransactionEnds
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, ended


def found(
    *commits: float, seconds: float = 1.0, times: int = 1, operation: str = "COMMIT", kind: str = "http"
) -> list[Finding]:
    """The findings of the last of `times` equal requests, one after the other."""
    detector = SlowCommits(DatabaseSettings())
    last: list[Finding] = []
    for number in range(times):
        record = ended(seconds=seconds, kind=kind)
        record.started, record.ended = number * seconds, (number + 1) * seconds
        record.transaction_ends = TransactionEnds()
        for each in commits:
            record.transaction_ends.add(operation, each, LINE, counts=operation == "COMMIT")
        last = list(detector(record))
    return last


def test_commits_in_a_loop_are_one_finding() -> None:
    (finding,) = found(*[0.01] * 40)
    assert (finding.kind, finding.subject) == ("slow_commit", "COMMIT in a loop")
    assert finding.message == "One line committed 40 times, 0.400 s in total: 40% of the request."
    assert finding.remedy.startswith("Commit once, after the loop")
    assert (finding.call_site, finding.severity) == (LINE, Severity.WARNING)


def test_large_portions_with_a_commit_each_are_none() -> None:
    assert found(*[0.005] * 8, seconds=2.0) == []


def test_a_few_commits_are_none() -> None:
    assert found(*[0.05] * 5) == []


def test_fast_commits_are_none() -> None:
    assert found(*[0.0001] * 6, seconds=0.004) == []


def test_a_single_slow_commit_is_none_however_slow_it_is() -> None:
    assert found(5.0, seconds=6.0) == []


def test_a_commit_that_is_slow_in_each_request_is_reported() -> None:
    (finding,) = found(0.6, times=3)
    assert finding.message == "One COMMIT took 0.600 s: 60% of the request."
    assert finding.severity is Severity.CRITICAL
    assert "deferred constraints and triggers" in finding.remedy


def test_one_is_reported_if_it_comes_three_times() -> None:
    assert found(0.2, seconds=0.3, times=2) == []
    (finding,) = found(0.2, seconds=0.3, times=3)
    assert finding.severity is Severity.WARNING


def test_a_small_share_of_the_request_is_none() -> None:
    assert found(0.2, seconds=1.0, times=5) == []


def test_a_slow_rollback_has_a_remedy_of_its_own() -> None:
    (finding,) = found(0.6, operation="ROLLBACK", times=3)
    assert finding.subject == "ROLLBACK"
    assert finding.remedy.startswith("Find out what the database undoes")


def test_websockets_do_not_count() -> None:
    assert found(*[0.01] * 40, kind="websocket") == []
