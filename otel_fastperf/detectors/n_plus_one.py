"""A statement that one line runs once per item, where a single statement could read them all."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.internals.frames import definition
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.columns import column_of_one_value, has_conditions
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, Load, LoadKind, Missing, PathStep

#: minimum share of the time between the first and the last repeat; below it the time goes elsewhere: a status that is
#: polled every second, a statement after each message of a stream
_LEAST_SHARE: Final = 0.02

#: minimum share of the request, and minimum seconds, for a critical finding
_CRITICAL_SHARE: Final = 0.5
_CRITICAL_SECONDS: Final = 0.5


def detect_n_plus_one(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for each line that repeats a statement `settings.n_plus_one` times.

    It repeats it one after the other, or in parallel if they belong together. Eager loads, pages of a
    list and the statements of one flush do not count, and neither do websockets, which repeat statements by nature.
    With `settings.n_plus_one_seconds = 0` fast repeats count too, for tests with an empty and local database.
    """
    if record.scope["type"] == "websocket":
        return
    for group in tuple(record.statements.values()):
        load = group.load
        flushes = load is not None and load.kind is LoadKind.FLUSH and group.loop is not None
        if load is None or not (flushes or load.kind in ONE_BY_ONE) or not _repeats(group, load, settings):
            continue
        if settings.n_plus_one_seconds and _goes_elsewhere(group):
            continue
        for line in _lines(group):
            if line.repeats >= settings.n_plus_one and line.seconds >= settings.n_plus_one_seconds:
                yield _finding(record, group, load, line, query_text=settings.query_text)


def _repeats(group: StatementGroup, load: Load, settings: DatabaseSettings) -> bool:
    if group.sequential >= settings.n_plus_one:
        return True
    # one line awaits them all, or one statement could read them all
    belong_together = load.kind is not LoadKind.QUERY or group.loop or column_of_one_value(group.query.text)
    return _is_parallel(group) and group.count >= settings.n_plus_one and bool(belong_together)


def _goes_elsewhere(group: StatementGroup) -> bool:
    """True if the time between repeats is most of it; parallel ones may spend it on waiting for a connection each."""
    return not _is_parallel(group) and group.seconds < _LEAST_SHARE * (group.last - group.first)


def _is_parallel(group: StatementGroup) -> bool:
    """True if most repeats ran in other tasks or threads than the one before."""
    return group.sequential <= group.count // 2


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
    # parallel repeats take no longer than the time between the first and the last
    seconds = min(line.seconds, group.last - group.first) if _is_parallel(group) else line.seconds
    share = seconds / record.seconds if record.ended else 0.0
    critical = share >= _CRITICAL_SHARE and seconds >= _CRITICAL_SECONDS
    summary = query.summary or query.operation
    # while a response model reads relationships, no line of the application is on the call stack
    site = line.site or definition(record.scope.get("endpoint"))
    # the caller's loop is what has to change; the statement's line may be that of a repository, which is fine
    loop = group.loop if group.loop not in {None, site} else None
    evidence: dict[str, str | int | float] = {
        "repeats": line.repeats,
        "seconds": seconds,
        "share": share,
        "db.query.fingerprint": query.fingerprint,
        "db.query.summary": summary,
        "db.query.text": query.text if query_text else "",
        "db.system.name": group.system,
    }
    if relationship:
        evidence["relationship"] = relationship
    where = ""
    if loop is not None:
        evidence |= {"statement_line": str(site), "loop": str(loop)}
        where = f", in {site}, {'awaited' if _is_parallel(group) else 'called in a loop'} at {loop}"
    return Finding(
        kind=Kind.N_PLUS_ONE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        subject=relationship or summary,
        message=f"{summary!r} ran {line.repeats} times, {seconds:.3f} s in total: {_reason(group, load)}{where}.",
        remedy=_remedy(group, load),
        evidence=evidence,
        call_site=loop or site,
        seconds=seconds,
    )


def _relationship(load: Load) -> str:
    return f"{load.entity}.{load.attribute}" if load.attribute else ""


def _reason(group: StatementGroup, load: Load) -> str:
    if load.attribute:
        return f"{_relationship(load)} is loaded separately for each {load.entity}"
    if load.kind is LoadKind.REFRESH:
        return f"{_MISSING[load.missing or Missing.EXPIRED].format(names=_names(load))} for each {load.entity}"
    if _has_same_values(group):
        return "with the same values each time"
    return "once per item, in parallel" if _is_parallel(group) else "once per item, one after the other"


_MISSING: Final = {
    Missing.EXPIRED: "expired attributes are loaded separately",
    Missing.DEFERRED: "{names}, which the query deferred, is loaded separately",
    Missing.SUBCLASS: "{names}, which is in the table of the subclass, is loaded separately",
    Missing.COMPUTED: "{names}, which the database computes, is read back separately",
    Missing.REFRESHED: "refresh() reads the row again",
}


def _names(load: Load) -> str:
    return ", ".join(load.names) or "an attribute"


def _has_same_values(group: StatementGroup) -> bool:
    return bool(group.values) and group.query.operation == "SELECT"


def _remedy(group: StatementGroup, load: Load) -> str:
    if load.attribute:
        return f"Load all of them at once: {_select(load)}."
    if load.kind is LoadKind.REFRESH:
        return _remedy_of_refresh(load)
    if group.query.operation == "SELECT":
        return _remedy_of_reads(group)
    return _remedy_of_writes(group, load)


def _remedy_of_writes(group: StatementGroup, load: Load) -> str:
    if load.kind is LoadKind.FLUSH:
        return (
            "Flush once, after the loop: session.add_all() or changes of all instances, then one flush() or commit()."
        )
    if group.query.operation == "INSERT":
        return "Insert all rows at once: session.add_all() with one flush, or session.execute(insert(…), [rows])."
    column = column_of_one_value(group.query.text)
    if not column:
        return "Change all rows at once: one statement for all of them, or session.execute() with a list of parameters."
    return f"Change all rows at once: WHERE {column} IN (…), or one session.execute() with a list of parameters."


def _remedy_of_reads(group: StatementGroup) -> str:
    column = column_of_one_value(group.query.text)
    if _has_same_values(group) or not has_conditions(group.query.text):
        return "Run it once before the loop and keep the result: it reads the same rows each time."
    if not column:
        return "Read all rows with one statement before the loop: a JOIN, or GROUP BY for a figure per item."
    return f"Read all rows with one statement before the loop: WHERE {column} IN (…), or a JOIN."


def _select(load: Load) -> str:
    """For example `select(Order).options(selectinload(Order.items).joinedload(Item.product))`."""
    own = (load.entity, load.attribute)
    repeated = any((step.entity, step.attribute) == own for step in load.path)
    steps = [step for step in load.path if (step.entity, step.attribute) != own]
    loaders = [f"{_strategy(many=step.many)}({_narrowed(step)})" for step in steps]
    if repeated:
        loaders.append(f"selectinload({_relationship(load)}, recursion_depth=-1)")
    else:
        loaders.append(f"{_strategy(many=load.many)}({_relationship(load)})")
    root = load.path[0].entity if load.path else load.entity
    if load.base and not load.path:
        root = load.base
        loaders = [f"selectin_polymorphic({root}, [{load.entity}]), {loaders[0]}"]
    return f"select({root}).options({'.'.join(loaders)})"


def _narrowed(step: PathStep) -> str:
    attribute = f"{step.entity}.{step.attribute}"
    return f"{attribute}.of_type({step.of_type})" if step.of_type else attribute


def _strategy(*, many: bool) -> str:
    return "selectinload" if many else "joinedload"


def _remedy_of_refresh(load: Load) -> str:
    entity, names = load.entity, [f"{load.entity}.{name}" for name in load.names]
    if load.missing is Missing.DEFERRED:
        return f"Read it with its rows: select({entity}).options({', '.join(f'undefer({name})' for name in names)})."
    if load.missing is Missing.SUBCLASS:
        polymorphic = f"selectin_polymorphic({load.base}, [{entity}])"
        return f"Read the subclass with its base: select({load.base}).options({polymorphic})."
    if load.missing is Missing.COMPUTED:
        return (
            f'Have the database return it with the INSERT or UPDATE: __mapper_args__ = {{"eager_defaults": True}} in'
            f" {entity}."
        )
    if load.missing is Missing.REFRESHED:
        return (
            f"Leave out refresh() in the loop. If the rows may have changed, select all {entity} at once with"
            " execution_options(populate_existing=True)."
        )
    remedy = f"Select all {entity or 'instances'} needed by the loop at once before it."
    if not load.expires:
        return f"{remedy} They expired by a rollback or by expire()."
    return f"{remedy} If they expired in a commit, create the session with expire_on_commit=False."
