"""`slow_query`: what is reported about a statement above the threshold, and the EXPLAIN line to paste."""

import pytest

from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.findings import Finding, Severity
from otel_fastperf.requests.record import StatementGroup
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, changed, ended, repeated

STATEMENT = "SELECT orders.id FROM orders WHERE orders.customer = 'ada' AND orders.total > 12"


def slow(
    statement: str = STATEMENT, dialect: str = "postgresql", seconds: float = 0.75, times: int = 1
) -> StatementGroup:
    group = repeated(statement, times, seconds=seconds, dialect=dialect)
    return changed(
        group,
        slow_count=times,
        slow_seconds=times * seconds,
        slowest=seconds,
        slow_call_site=LINE,
        slow_rows=3,
    )


def found(*groups: StatementGroup, settings: DatabaseSettings | None = None) -> list[Finding]:
    return list(detect_slow_query(ended(*groups), settings or DatabaseSettings()))


def test_the_finding_has_call_site_rows_and_remedy() -> None:
    (finding,) = found(slow())
    assert (finding.kind, finding.subject, finding.call_site) == ("slow_query", "SELECT orders", LINE)
    assert finding.message == "'SELECT orders' took 0.750 s for 3 rows."
    assert finding.seconds == pytest.approx(0.75)
    assert "Add an index on (orders.customer, orders.total), or limit() the number of rows." in finding.remedy
    assert finding.evidence["rows"] == 3
    assert finding.evidence["db.query.fingerprint"] == slow().query.fingerprint


def test_the_finding_has_no_values() -> None:
    (finding,) = found(slow())
    assert "ada" not in f"{finding}"
    assert "12" not in f"{finding.evidence['db.query.text']}{finding.remedy}"


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("postgresql", "EXPLAIN (ANALYZE, BUFFERS) SELECT"),
        ("mysql", "EXPLAIN ANALYZE SELECT"),
        ("mariadb", "ANALYZE SELECT"),
        ("sqlite", "EXPLAIN QUERY PLAN SELECT"),
    ],
)
def test_the_explain_line_fits_the_dialect(dialect: str, line: str) -> None:
    (finding,) = found(slow(dialect=dialect))
    assert str(finding.evidence["explain"]).startswith(line)
    assert finding.remedy.endswith(str(finding.evidence["explain"]))


def test_explaining_a_write_does_not_execute_it() -> None:
    (finding,) = found(slow("DELETE FROM orders WHERE id = 1"))
    assert finding.evidence["explain"] == "EXPLAIN DELETE FROM orders WHERE id = ?"
    assert "limit()" not in finding.remedy


@pytest.mark.parametrize("statement", ["CREATE INDEX a ON b (c)", "SELECT '" + "x" * 9000 + "' FROM " + "y" * 9000])
def test_a_statement_that_cannot_be_explained_has_no_explain_line(statement: str) -> None:
    (finding,) = found(slow(statement))
    assert "explain" not in finding.evidence


def test_an_unknown_dialect_has_no_explain_line() -> None:
    (finding,) = found(slow(dialect="mssql"))
    assert "explain" not in finding.evidence


def test_a_long_explain_line_is_in_the_evidence_only() -> None:
    (finding,) = found(slow("SELECT " + ", ".join(f"orders.column_{number}" for number in range(100)) + " FROM orders"))
    assert len(finding.remedy) < 300
    assert "column_99" in str(finding.evidence["explain"])


def test_several_slow_executions_are_one_finding() -> None:
    (finding,) = found(slow(times=4))
    assert finding.message == "'SELECT orders' took 0.750 s for 3 rows; 4 slow executions took 3.000 s in total."
    assert finding.seconds == pytest.approx(3.0)


def test_ten_times_the_threshold_is_critical() -> None:
    assert found(slow(seconds=5.0))[0].severity is Severity.CRITICAL
    assert found(slow(seconds=4.9))[0].severity is Severity.WARNING


def test_a_fast_statement_is_not_reported() -> None:
    assert found(repeated()) == []


def test_the_text_can_be_disabled() -> None:
    (finding,) = found(slow(), settings=DatabaseSettings(query_text=False))
    assert finding.evidence["db.query.text"] == ""
    assert "explain" not in finding.evidence
