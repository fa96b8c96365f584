"""A single statement that takes long."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.look_ups import remedy_of

#: multiple of the threshold from which a finding is critical
_CRITICAL: Final = 10

#: executions after which it is known how often a statement is slow, and the share of them that makes it a slow one
_ENOUGH: Final = 20
_LEAST_SHARE: Final = 0.05

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
    """Yield a finding for each statement that took `settings.slow_query` seconds at least once.

    A statement that is fast as a rule was not slow by itself: it waited once, as anything does on a busy machine.
    """
    for group in tuple(record.statements.values()):
        counts = group.query.counts
        counts.all += group.count
        if group.slow_count and not group.waited_for_lock:
            counts.slow += group.slow_count
            if counts.all >= _ENOUGH and counts.slow < _LEAST_SHARE * counts.all:
                continue
            number = group.slow_count
            often = f"; {number} slow executions took {group.slow_seconds:.3f} s in total" if number > 1 else ""
            yield finding_of(group, settings, seconds=group.slow_seconds, often=often)


def finding_of(
    group: StatementGroup, settings: DatabaseSettings, *, seconds: float, often: str, share: float = 0.0
) -> Finding:
    """A finding for a statement that took `seconds` in its request.

    Args:
        often: What is known of other executions, as the end of the message.
        share: The share of its route's time, if that is the reason.
    """
    query = group.query
    summary = query.summary or query.operation
    explain = _explain(group) if settings.query_text else ""
    evidence: dict[str, str | int | float] = {
        "seconds": group.longest,
        "db.query.fingerprint": query.fingerprint,
        "db.query.summary": summary,
        "db.query.text": query.text if settings.query_text else "",
        "db.system.name": group.system,
    }
    if group.slow_rows >= 0:
        evidence["rows"] = group.slow_rows
    if share:
        evidence["share"] = share
    if group.slow_look_up.skipped:
        evidence["rows_skipped"] = group.slow_look_up.skipped
    if explain:
        evidence["explain"] = explain
    rows = f" for {group.slow_rows} rows" if group.slow_rows >= 0 else ""
    return Finding(
        kind=Kind.SLOW_QUERY,
        severity=Severity.CRITICAL if group.longest >= _CRITICAL * settings.slow_query else Severity.WARNING,
        subject=summary,
        message=f"{summary!r} took {group.longest:.3f} s{rows}{often}.",
        remedy=_remedy(group, explain),
        evidence=evidence,
        call_site=group.long_call_site,
        seconds=seconds,
    )


def _remedy(group: StatementGroup, explain: str) -> str:
    remedy = remedy_of(group.query, group.slow_look_up, group.slow_rows)
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
