"""`slow_query`: what is reported about a statement above the threshold, and the EXPLAIN line to paste."""

import pytest

from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.findings import Finding, Severity
from otel_fastperf.requests.record import StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.look_ups import LookUp
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
        longest=seconds,
        long_call_site=LINE,
        slow_rows=3,
    )


def found(*groups: StatementGroup, settings: DatabaseSettings | None = None) -> list[Finding]:
    return list(detect_slow_query(ended(*groups), settings or DatabaseSettings()))


def test_the_finding_has_call_site_rows_and_remedy() -> None:
    (finding,) = found(slow())
    assert (finding.kind, finding.subject, finding.call_site) == ("slow_query", "SELECT orders", LINE)
    assert finding.message == "'SELECT orders' took 0.750 s for 3 rows."
    assert finding.seconds == pytest.approx(0.75)
    assert "Add an index on (orders.customer, orders.total)." in finding.remedy
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


def test_a_statement_that_is_fast_as_a_rule_is_not_reported() -> None:
    query = slow().query
    fast = [changed(repeated(STATEMENT, times=10), query=query) for _ in range(5)]
    assert found(*fast) == []
    assert found(changed(slow(), query=query)) == []
    assert found(*(changed(slow(), query=query) for _ in range(5))) != []


def test_a_fast_statement_is_not_reported() -> None:
    assert found(repeated()) == []


@pytest.mark.parametrize(
    ("statement", "look_up", "rows", "remedy"),
    [
        (
            "SELECT * FROM t WHERE t.a = ? ORDER BY t.at DESC LIMIT ? OFFSET ?",
            LookUp(skipped=120_000),
            20,
            "reads 120,000 rows to throw them away: WHERE t.at < :last ORDER BY t.at DESC LIMIT n, with an index",
        ),
        (
            "SELECT * FROM t ORDER BY t.at, t.id LIMIT ? OFFSET ?",
            LookUp(skipped=9_000),
            -1,
            "WHERE (t.at, t.id) > (:last, …) ORDER BY t.at, t.id LIMIT n",
        ),
        ("SELECT * FROM t WHERE a = ? LIMIT ? OFFSET ?", LookUp(skipped=40), 20, "Add an index on (a)."),
        ("SELECT * FROM t WHERE t.id = ? FOR UPDATE", LookUp(unique=frozenset({"id"})), 1, "waits for: a lock"),
        ("UPDATE t SET a = ? WHERE t.id = ?", LookUp(unique=frozenset({"id"})), 1, "t.id has a unique index"),
        ("SELECT * FROM t WHERE t.a = ?", LookUp(indexed=frozenset({"a"})), 1, "t.a has an index already"),
        (
            "SELECT * FROM t WHERE t.a = ? AND t.b = ?",
            LookUp(indexed=frozenset({"a"})),
            1,
            "Add an index on (t.a, t.b).",
        ),
        ("INSERT INTO t (a) VALUES (?)", LookUp(), 1, "An INSERT looks up no rows"),
        (
            "SELECT * FROM t WHERE t.id = ? OR t.a = ?",
            LookUp(unique=frozenset({"id"})),
            1,
            "Add an index on each of t.id, t.a: they are alternatives (OR).",
        ),
        (
            "SELECT * FROM t WHERE t.id IN (SELECT u.t_id FROM u WHERE u.name = ?)",
            LookUp(unique=frozenset({"id"}), indexed=frozenset({"id"})),
            1,
            "Add an index on (u.name).",
        ),
        ("SELECT * FROM t ORDER BY t.at DESC LIMIT ?", LookUp(), 20, "Add an index on (t.at): in its order"),
        ("SELECT * FROM t ORDER BY t.at LIMIT ?", LookUp(indexed=frozenset({"at"})), 20, "no condition that an index"),
        ("UPDATE t SET a = a + ?", LookUp(), 20, "It changes all rows"),
        ("SELECT * FROM t WHERE t.tags @> ?", LookUp(), 1, "Run EXPLAIN to see which rows it reads"),
        ("SELECT pg_sleep(?)", LookUp(), 1, "Run EXPLAIN to see what it does."),
        ("SELECT count(*) FROM t", LookUp(), 1, "no condition that an index could serve"),
        ("SELECT * FROM t WHERE a LIKE ?", LookUp(wildcard=True), 3, "full-text or trigram"),
        ("SELECT * FROM t WHERE lower(t.mail) = ?", LookUp(), 1, "Add an index on (lower(t.mail))."),
        ("SELECT * FROM t WHERE t.b > ? AND t.a = $1::INTEGER", LookUp(), 1, "Add an index on (t.a, t.b)."),
        ("SELECT * FROM t WHERE t.a <> ? AND t.b > ?", LookUp(), 1, "Add an index on (t.b)."),
        (
            "SELECT * FROM t JOIN u ON u.id = t.u_id WHERE u.mail = ?",
            LookUp(unique=frozenset({"id"}), indexed=frozenset({"id"})),
            1,
            "Add an index on (u.mail).",
        ),
        ("SELECT t.a, u.b FROM t JOIN u ON u.k = t.k_id", LookUp(), 3, "Add an index on (u.k)."),
    ],
)
def test_the_remedy_fits_the_way_in_which_rows_are_looked_up(
    statement: str, look_up: LookUp, rows: int, remedy: str
) -> None:
    (finding,) = found(changed(slow(statement), slow_look_up=look_up, slow_rows=rows))
    assert remedy in finding.remedy
    assert ("Add an index" in finding.remedy) == ("Add an index" in remedy)


def test_many_rows_are_named_as_a_reason() -> None:
    assert "limit() the number of rows" in found(changed(slow(), slow_rows=5_000))[0].remedy
    assert "limit()" not in found(changed(slow("SELECT count(*) FROM t WHERE a = 1"), slow_rows=-1))[0].remedy


def test_the_text_can_be_disabled() -> None:
    (finding,) = found(slow(), settings=DatabaseSettings(query_text=False))
    assert finding.evidence["db.query.text"] == ""
    assert "explain" not in finding.evidence
