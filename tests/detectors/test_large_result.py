"""`large_result`: which results are reported, and how."""

import pytest

from otel_fastperf.detectors.large_result import detect_large_result
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Budget, Segment
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, changed, ended, repeated


def large(rows: int = 20_000, name: str = "Order") -> StatementGroup:
    group = repeated("SELECT * FROM orders", 1, seconds=0.1)
    return changed(group, rows=rows, rows_site=LINE, rows_class=name)


def spent(*groups: StatementGroup, seconds: float = 1.0, **segments: float) -> RequestRecord:
    record = ended(*groups, seconds=seconds)
    record.budget = Budget({Segment(name): time for name, time in segments.items()}, {})
    return record


def found(record: RequestRecord) -> list[Finding]:
    return list(detect_large_result(record, DatabaseSettings()))


def test_rows_class_line_and_time_are_named() -> None:
    (finding,) = found(spent(large(), handler=0.4, gc=0.2, db=0.1))
    assert (finding.kind, finding.severity, finding.subject) == ("large_result", Severity.WARNING, "SELECT orders")
    assert finding.call_site == LINE
    assert finding.message == (
        "'SELECT orders' returned 20,000 rows as Order objects; to fetch them and work on them took 0.700 s,"
        " 0.200 s of them in the garbage collector."
    )
    assert finding.seconds == pytest.approx(0.7)
    assert (finding.evidence["rows"], finding.evidence["class"]) == (20_000, "Order")
    assert "columns instead of Order objects" in finding.remedy
    assert "yield_per" in finding.remedy


def test_plain_rows_are_not_called_objects() -> None:
    (finding,) = found(spent(large(name=""), serialization=0.4))
    assert "20,000 rows; to fetch" in finding.message
    assert "only the columns that are used" in finding.remedy


def test_what_the_request_awaits_does_not_count() -> None:
    assert found(spent(large(), seconds=3.0, handler_await=2.0, http_client=0.5, handler=0.0)) != []
    assert found(spent(changed(large(), seconds=0.01), seconds=3.0, handler_await=2.0, handler=0.02)) == []


def test_fewer_rows_are_not_reported() -> None:
    assert found(spent(large(rows=0), handler=0.9)) == []
    assert found(spent(large(rows=4_999), handler=0.9)) == []
    assert found(ended(large())) == []


def test_a_second_is_critical() -> None:
    assert found(spent(large(), seconds=2.0, handler=1.2))[0].severity is Severity.CRITICAL


def test_code_on_the_rows_is_known_by_its_function() -> None:
    record = ended(large(), repeated())
    assert record.has_large_result
    assert record.works_on_rows(None)
    assert record.works_on_rows(CallSite(LINE.file, 99, LINE.function))
    assert not record.works_on_rows(CallSite(LINE.file, LINE.line, "other"))
    assert not ended(repeated()).works_on_rows(None)
