"""One statement that a line repeats for each of many things, where one statement could read them all."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.internals.frames import definition
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.columns import column_of_one_value
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, Load, LoadKind

#: repeats that take a smaller share of the time between the first and the last are not what that time is spent on: a
#: status that is asked for every second, a statement after each message of a stream
_LEAST_SHARE: Final = 0.02

#: at this share of the request, and this many seconds, it is critical
_CRITICAL_SHARE: Final = 0.5
_CRITICAL_SECONDS: Final = 0.5


def detect_n_plus_one(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """A finding for each line that repeats a statement `settings.n_plus_one` times, one after the other.

    Eager loads, flushes, pages of a list and parallel executions are none. A websocket repeats by nature. With
    `settings.n_plus_one_seconds` at 0 it does not matter how fast they are: a test's database is empty and near.
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
    """Repeats of one line."""

    site: CallSite | None
    repeats: int
    seconds: float


def _lines(group: StatementGroup) -> Iterator[_Line]:
    """Those whose line was not looked up are those of the only line there is."""
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
        message=f"{summary!r} ran {line.repeats} times, {line.seconds:.3f} s in all: {_reason(load)}.",
        remedy=_remedy(group, load),
        evidence=evidence,
        # a response model reads relationships while no line of the application runs
        call_site=line.site or definition(record.scope.get("endpoint")),
        seconds=line.seconds,
    )


def _relationship(load: Load) -> str:
    return f"{load.entity}.{load.attribute}" if load.attribute else ""


def _reason(load: Load) -> str:
    if load.attribute:
        return f"{_relationship(load)} is loaded for each {load.entity} by itself"
    if load.kind is LoadKind.REFRESH:
        return f"expired or deferred attributes are loaded for each {load.entity or 'instance'} by itself"
    return "once for each of many things, one after the other"


def _remedy(group: StatementGroup, load: Load) -> str:
    if load.attribute:
        loader = "selectinload" if load.many else "joinedload"
        return f"load them together: select({load.entity}).options({loader}({_relationship(load)}))"
    if load.kind is LoadKind.REFRESH:
        name = load.entity or "the class"
        return (
            f"select all of {name} that are needed at once before the loop; undefer() what is deferred, and make the"
            " session with expire_on_commit=False if they are used after a commit"
        )
    if group.query.operation == "INSERT":
        return "insert all rows at once: session.add_all() and one flush, or session.execute(insert(…), [rows])"
    column = column_of_one_value(group.query.text) or "…"
    if group.query.operation == "SELECT":
        return f"read all rows at once before the loop: WHERE {column} IN (…), or a JOIN to what the loop goes over"
    return f"change all rows at once: WHERE {column} IN (…), or one session.execute() with a list of parameters"
