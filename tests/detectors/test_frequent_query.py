"""`slow_query` for statements below the threshold: those that take most of a route, request after request."""

from collections.abc import Sequence

import pytest

from otel_fastperf.detectors.frequent_query import FrequentQueries
from otel_fastperf.findings import Finding, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, changed, ended, repeated

#: requests after which a route is judged
ENOUGH = 12


def statement(
    seconds: float = 0.14, text: str = "SELECT * FROM orders WHERE name = ?", times: int = 1
) -> StatementGroup:
    group = repeated(text, times, seconds=seconds)
    return changed(group, longest=seconds if seconds >= 0.075 else 0.0, long_call_site=LINE, slow_rows=3)


def request(
    *groups: StatementGroup, seconds: float = 0.17, method: str = "GET", route: str = "/orders"
) -> RequestRecord:
    record = ended(*groups, seconds=seconds)
    record.method = method
    record._route, record._is_route_final = route, True
    return record


def found(records: Sequence[RequestRecord]) -> list[Finding]:
    detector = FrequentQueries(DatabaseSettings())
    return [finding for record in records for finding in detector(record)]


def test_a_statement_that_is_most_of_its_route_is_reported() -> None:
    finding = found([request(statement()) for _ in range(ENOUGH)])[-1]
    assert (finding.kind, finding.severity, finding.subject) == ("slow_query", Severity.WARNING, "SELECT orders")
    assert finding.call_site == LINE
    assert finding.message == (
        "'SELECT orders' took 0.140 s for 3 rows, which is 82% of its route's time in the last 12 requests."
    )
    assert finding.evidence["share"] == pytest.approx(0.82, abs=0.01)
    assert "Add an index on (name)." in finding.remedy
    assert finding.seconds == pytest.approx(0.14)


def test_on_a_busy_machine_its_share_is_that_of_the_time_in_which_the_request_could_run() -> None:
    records = [request(statement(), seconds=0.9) for _ in range(ENOUGH)]
    assert found(records) == []
    for record in records:
        record.starved = 0.7
    assert found(records)[-1].kind == "slow_query"


def test_a_few_requests_are_no_evidence() -> None:
    assert found([request(statement()) for _ in range(ENOUGH - 1)]) == []


def test_a_fast_statement_is_not_reported_whatever_its_share() -> None:
    assert found([request(statement(0.003), seconds=0.004) for _ in range(100)]) == []


def test_a_statement_that_is_fast_at_its_best_is_not_reported() -> None:
    """As on a busy machine: most executions wait for the processor, some do not."""
    durations = [0.2, 0.15, 0.1, 0.12, 0.003] * 12
    assert found([request(statement(each), seconds=each + 0.01) for each in durations]) == []


def test_a_small_share_is_not_reported() -> None:
    assert found([request(statement(), seconds=0.5) for _ in range(40)]) == []


def test_a_statement_of_some_requests_is_not_reported() -> None:
    records = [request(statement()), request(seconds=0.02), request(seconds=0.02)] * 20
    assert found(records) == []


def test_routes_are_told_apart_by_their_methods() -> None:
    records = [request(statement(), method=method) for _ in range(ENOUGH - 1) for method in ("GET", "POST")]
    assert found(records) == []


def test_repeats_and_slow_statements_are_reported_elsewhere() -> None:
    assert found([request(statement(times=8), seconds=1.3) for _ in range(40)]) == []
    assert found([request(changed(statement(0.8), slow_count=1), seconds=0.9) for _ in range(40)]) == []


def test_what_is_remembered_is_bounded() -> None:
    detector = FrequentQueries(DatabaseSettings())
    for number in range(1000):
        list(detector(request(statement(), route=f"/{number}")))
        list(detector(request(route=f"/fast/{number}")))
    assert len(detector._routes) <= 256
