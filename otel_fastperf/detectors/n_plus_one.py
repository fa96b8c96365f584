"""A statement that one line runs once per item, where a single statement could read them all."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.internals.frames import definition
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.columns import column_of_one_value
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, Load, LoadKind

#: minimum share of the time between the first and the last repeat; below it the time goes elsewhere: a status that is
#: polled every second, a statement after each message of a stream
_LEAST_SHARE: Final = 0.02

#: minimum share of the request, and minimum seconds, for a critical finding
_CRITICAL_SHARE: Final = 0.5
_CRITICAL_SECONDS: Final = 0.5


def detect_n_plus_one(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for each line that repeats a statement `settings.n_plus_one` times, one after the other.

    Eager loads, flushes, pages of a list and parallel executions do not count, and neither do websockets, which repeat
    statements by nature. With `settings.n_plus_one_seconds = 0` fast repeats count too, for tests with an empty and
    local database.
    """
    if record.scope["type"] == "websocket":
        return
    for group in tuple(record.statements.values()):
        load = group.load
        if load is None or load.kind not in ONE_BY_ONE or group.sequential < settings.n_plus_one:
            continue
        if settings.n_plus_one_seconds and group.seconds < _LEAST_SHARE * (group.last - group.first):
            continue
        for line in _lines(group):
            if line.repeats >= settings.n_plus_one and line.seconds >= settings.n_plus_one_seconds:
                yield _finding(record, group, load, line, query_text=settings.query_text)


class _Line(NamedTuple):
    """The repeats of a statement at one line."""

    site: CallSite | None
    repeats: int
    seconds: float


def _lines(group: StatementGroup) -> Iterator[_Line]:
    """Repeats by line. If only one line is known, the repeats that were not looked up belong to it."""
    if len(group.lines) == 1:
        yield _Line(next(iter(group.lines)), group.count, group.seconds)
        return
    for site, (repeats, seconds) in tuple(group.lines.items()):
        yield _Line(site, int(repeats), seconds)


def _finding(record: RequestRecord, group: StatementGroup, load: Load, line: _Line, *, query_text: bool) -> Finding:
    query, relationship = group.query, _relationship(load)
    share = line.seconds / record.seconds if record.ended else 0.0
    critical = share >= _CRITICAL_SHARE and line.seconds >= _CRITICAL_SECONDS
    summary = query.summary or query.operation
    evidence: dict[str, str | int | float] = {
        "repeats": line.repeats,
        "seconds": line.seconds,
        "share": share,
        "db.query.fingerprint": query.fingerprint,
        "db.query.summary": summary,
        "db.query.text": query.text if query_text else "",
        "db.system.name": group.system,
    }
    if relationship:
        evidence["relationship"] = relationship
    return Finding(
        kind=Kind.N_PLUS_ONE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        subject=relationship or summary,
        message=f"{summary!r} ran {line.repeats} times, {line.seconds:.3f} s in total: {_reason(load)}.",
        remedy=_remedy(group, load),
        evidence=evidence,
        # while a response model reads relationships, no line of the application is on the call stack
        call_site=line.site or definition(record.scope.get("endpoint")),
        seconds=line.seconds,
    )


def _relationship(load: Load) -> str:
    return f"{load.entity}.{load.attribute}" if load.attribute else ""


def _reason(load: Load) -> str:
    if load.attribute:
        return f"{_relationship(load)} is loaded separately for each {load.entity}"
    if load.kind is LoadKind.REFRESH:
        return f"expired or deferred attributes are loaded separately for each {load.entity or 'instance'}"
    return "once per item, one after the other"


def _remedy(group: StatementGroup, load: Load) -> str:
    if load.attribute:
        loader = "selectinload" if load.many else "joinedload"
        return f"Load all of them at once: select({load.entity}).options({loader}({_relationship(load)}))."
    if load.kind is LoadKind.REFRESH:
        return (
            f"Select all {load.entity or 'instances'} needed by the loop at once before it, with undefer() for deferred"
            " attributes. If they expired in a commit, create the session with expire_on_commit=False."
        )
    if group.query.operation == "INSERT":
        return "Insert all rows at once: session.add_all() with one flush, or session.execute(insert(…), [rows])."
    column = column_of_one_value(group.query.text) or "…"
    if group.query.operation == "SELECT":
        return f"Read all rows with one statement before the loop: WHERE {column} IN (…), or a JOIN."
    return f"Change all rows at once: WHERE {column} IN (…), or one session.execute() with a list of parameters."
