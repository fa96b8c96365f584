"""A single statement that takes long."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.columns import compared_columns

#: multiple of the threshold from which a finding is critical
_CRITICAL: Final = 10

#: most columns named in the remedy
_MOST_COLUMNS: Final = 4

#: most characters of an EXPLAIN line in the remedy; a longer one is in the evidence only
_LONGEST_LINE: Final = 500

#: SQLAlchemy's dialect -> prefix that shows where the time of a SELECT goes
_EXPLAIN: Final = {
    "postgresql": "EXPLAIN (ANALYZE, BUFFERS)",
    "cockroachdb": "EXPLAIN ANALYZE",
    "mysql": "EXPLAIN ANALYZE",
    "mariadb": "ANALYZE",
    "sqlite": "EXPLAIN QUERY PLAN",
    "oracle": "EXPLAIN PLAN FOR",
}


def detect_slow_query(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for each statement that took `settings.slow_query` seconds at least once."""
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
        f"; {group.slow_count} slow executions took {group.slow_seconds:.3f} s in total" if group.slow_count > 1 else ""
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
    index = f"Add an index on ({', '.join(columns)})" if columns else "Add an index that the statement can use"
    unlimited = query.operation == "SELECT" and " LIMIT " not in query.text.upper()
    remedy = f"{index}, or limit() the number of rows." if unlimited else f"{index}."
    if not explain:
        return remedy
    if len(explain) > _LONGEST_LINE:
        return f"{remedy} To see the plan, fill in the parameters of `explain` in the evidence and run it."
    return f"{remedy} To see the plan, fill in the parameters and run: {explain}"


def _explain(group: StatementGroup) -> str:
    """The EXPLAIN line to paste; "" if there is none, as for a text that was cut.

    ANALYZE executes the statement, so it is left out for statements that write.
    """
    query, explain = group.query, _EXPLAIN.get(group.dialect)
    if explain is None or not query.text or query.text.endswith("…"):
        return ""
    if query.operation == "SELECT":
        return f"{explain} {query.text}"
    if query.operation in {"INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"}:
        return f"{explain if group.dialect in {'sqlite', 'oracle'} else 'EXPLAIN'} {query.text}"
    return ""
