"""A statement returned thousands of rows, and the request spent its time on the objects made of them."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Segment
from otel_fastperf.settings import DatabaseSettings

#: seconds from which a finding is critical
_CRITICAL: Final = 1.0
#: segments in which a request works on its rows
_ON_ROWS: Final = (Segment.HANDLER, Segment.DEPENDENCIES, Segment.SERIALIZATION, Segment.GC)


def detect_large_result(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for the statement with most rows, if it returned `settings.large_result` of them.

    The request must have spent `settings.large_result_seconds` on rows.
    """
    if record.budget is None:
        return
    groups = [group for group in tuple(record.statements.values()) if group.rows >= settings.large_result]
    if not groups:
        return
    largest = max(groups, key=lambda group: group.rows)
    segments = record.budget.segments
    seconds = sum(segments.get(segment, 0.0) for segment in _ON_ROWS) + sum(group.seconds for group in groups)
    seconds = min(seconds, record.seconds)
    if seconds >= settings.large_result_seconds:
        yield _finding(largest, seconds, segments.get(Segment.GC, 0.0), settings)


def _finding(group: StatementGroup, seconds: float, collecting: float, settings: DatabaseSettings) -> Finding:
    query = group.query
    summary = query.summary or query.operation
    objects = f" as {group.rows_class} objects" if group.rows_class else ""
    evidence: dict[str, str | int | float] = {
        "rows": group.rows,
        "seconds": seconds,
        "gc_seconds": collecting,
        "db.query.fingerprint": query.fingerprint,
        "db.query.summary": summary,
        "db.query.text": query.text if settings.query_text else "",
        "db.system.name": group.system,
    }
    if group.rows_class:
        evidence["class"] = group.rows_class
    collector = f", {collecting:.3f} s of them in the garbage collector" if collecting >= 0.001 else ""  # noqa: PLR2004
    return Finding(
        kind=Kind.LARGE_RESULT,
        severity=Severity.CRITICAL if seconds >= _CRITICAL else Severity.WARNING,
        subject=summary,
        message=(
            f"{summary!r} returned {group.rows:,} rows{objects}; to fetch them and work on them took"
            f" {seconds:.3f} s{collector}."
        ),
        remedy=_remedy(group),
        evidence=evidence,
        call_site=group.rows_site,
        seconds=seconds,
    )


def _remedy(group: StatementGroup) -> str:
    columns = f"columns instead of {group.rows_class} objects" if group.rows_class else "only the columns that are used"
    return (
        f"Fetch fewer rows: filter and aggregate in SQL (WHERE, func.count(), func.sum()), or page with limit(). Select"
        f" {columns}. If all rows are needed, stream them: session.stream() or yield_per(1000)."
    )
