"""One statement that takes long by itself."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.columns import compared_columns

#: so many times the threshold is critical
_CRITICAL: Final = 10

#: columns that are named
_MOST_COLUMNS: Final = 4

#: characters of a line that is shown in the remedy; a longer one stands in the evidence only
_LONGEST_LINE: Final = 500

#: SQLAlchemy's dialect -> what makes a SELECT tell where its time goes
_EXPLAIN: Final = {
    "postgresql": "EXPLAIN (ANALYZE, BUFFERS)",
    "cockroachdb": "EXPLAIN ANALYZE",
    "mysql": "EXPLAIN ANALYZE",
    "mariadb": "ANALYZE",
    "sqlite": "EXPLAIN QUERY PLAN",
    "oracle": "EXPLAIN PLAN FOR",
}


def detect_slow_query(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """A finding for each statement that took `settings.slow_query` seconds once or more often."""
    for group in tuple(record.statements.values()):
        if group.slow_count:
            yield _finding(group, settings)


def _finding(group: StatementGroup, settings: DatabaseSettings) -> Finding:
    query = group.query
    summary = query.summary or query.operation
    explain = _explain(group) if settings.query_text else ""
    evidence: dict[str, str | int | float] = {
        "seconds": group.slowest,
        "db.query.fingerprint": query.fingerprint,
        "db.query.summary": summary,
        "db.query.text": query.text if settings.query_text else "",
        "db.system.name": group.system,
    }
    if group.slow_rows >= 0:
        evidence["rows"] = group.slow_rows
    if explain:
        evidence["explain"] = explain
    rows = f" for {group.slow_rows} rows" if group.slow_rows >= 0 else ""
    often = (
        f", and was slow {group.slow_count} times, {group.slow_seconds:.3f} s in all" if group.slow_count > 1 else ""
    )
    return Finding(
        kind=Kind.SLOW_QUERY,
        severity=Severity.CRITICAL if group.slowest >= _CRITICAL * settings.slow_query else Severity.WARNING,
        subject=summary,
        message=f"{summary!r} took {group.slowest:.3f} s{rows}{often}.",
        remedy=_remedy(group, explain),
        evidence=evidence,
        call_site=group.slow_call_site,
        seconds=group.slow_seconds,
    )


def _remedy(group: StatementGroup, explain: str) -> str:
    query = group.query
    columns = compared_columns(query.text)[:_MOST_COLUMNS]
    fixes = [f"an index on what it compares ({', '.join(columns)})" if columns else "an index that it can use"]
    if query.operation == "SELECT" and " LIMIT " not in query.text.upper():
        fixes.append("a limit() on the rows it reads")
    if not explain:
        return " or ".join(fixes)
    line = explain if len(explain) <= _LONGEST_LINE else "the line `explain` of the evidence"
    return f"{' or '.join(fixes)}; with values in place of the markers, this shows what it does: {line}"


def _explain(group: StatementGroup) -> str:
    """A line to paste. ANALYZE runs the statement, so what writes is explained without; a text that was cut is not."""
    query, explain = group.query, _EXPLAIN.get(group.dialect)
    if explain is None or not query.text or query.text.endswith("…"):
        return ""
    if query.operation == "SELECT":
        return f"{explain} {query.text}"
    if query.operation in {"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"}:
        return f"{explain if group.dialect in {'sqlite', 'oracle'} else 'EXPLAIN'} {query.text}"
    return ""
