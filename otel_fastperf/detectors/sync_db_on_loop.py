"""Synchronous statements on the event loop's thread, which block all other requests of the worker."""

from collections.abc import Iterator
from typing import Final, TypeAlias, TypeGuard

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.requests.record import BlockedCaller, RequestRecord, StatementGroup, route_of
from otel_fastperf.requests.route import NO_ROUTE, Route
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.settings import DatabaseSettings

#: minimum seconds for a critical finding: people notice such a delay
_CRITICAL: Final = 0.1
#: most lines in the evidence
_MOST_LINES: Final = 5
#: most coroutines whose route is remembered
_MOST_HOMES: Final = 256

#: OpenTelemetry's `db.system.name` -> dialect and driver of an async engine
_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
    "oracle.db": "oracle+oracledb_async",
    "microsoft.sql_server": "mssql+aioodbc",
}


#: where a coroutine that serves several routes was first seen; see `detect_sync_db_on_loop`
Homes: TypeAlias = dict[CallSite, Route]


def detect_sync_db_on_loop(
    record: RequestRecord, settings: DatabaseSettings, homes: Homes | None = None
) -> Iterator[Finding]:
    """Yield one finding for all synchronous statements of a request that blocked the event loop.

    They must have blocked it for `settings.sync_on_loop` seconds together. The finding names the first of the lines
    that blocked it longest; for a dependency or a middleware, the line of its coroutine. Such a coroutine is one
    finding and not one for each route: `homes` remembers the route at which it was reported first.
    """
    groups = [group for group in tuple(record.statements.values()) if group.loop_count]
    seconds = sum(group.loop_seconds for group in groups)
    if not groups or seconds < settings.sync_on_loop:
        return
    longest = max(group.loop_seconds for group in groups)
    # the line that is longest by a hair would change from request to request
    chosen = next(group for group in groups if group.loop_seconds >= longest / 2)
    summary = chosen.query.summary or chosen.query.operation
    count = sum(group.loop_count for group in groups)
    home = _home(record, chosen.caller, homes)
    yield Finding(
        kind=Kind.SYNC_DB_ON_LOOP,
        severity=Severity.CRITICAL if seconds >= _CRITICAL else Severity.WARNING,
        subject=summary,
        message=(
            f"{count} synchronous statement{'s' if count > 1 else ''} blocked the event loop for {seconds:.4f} s:"
            f" {summary!r}{' and others' if len(groups) > 1 else ''} on {_engine(chosen)}."
        ),
        remedy=(
            f'Await an AsyncSession of create_async_engine("{_DRIVERS.get(chosen.system, chosen.dialect + "+…")}://…"),'
            f" or {_in_a_thread(chosen)}."
        ),
        evidence={
            "seconds": seconds,
            "statements": count,
            "lines": tuple(dict.fromkeys(str(group.call_site) for group in groups if group.call_site))[:_MOST_LINES],
            "db.query.summary": summary,
            "db.query.fingerprint": chosen.query.fingerprint,
            "db.system.name": chosen.system,
            "db.namespace": chosen.namespace,
        },
        call_site=chosen.caller.site if _is_shared(chosen.caller) else chosen.call_site,
        seconds=seconds,
        method=home.method,
        route=home.template,
    )


def _is_shared(caller: BlockedCaller | None) -> TypeGuard[BlockedCaller]:
    """True for a dependency or a middleware: the line of a repository would say nothing of who has to change."""
    return caller is not None and caller.phase != Phase.HANDLER


def _home(record: RequestRecord, caller: BlockedCaller | None, homes: Homes | None) -> Route:
    """The route to report; `NO_ROUTE` for that of the request."""
    if homes is None or not _is_shared(caller):
        return NO_ROUTE
    if len(homes) < _MOST_HOMES or caller.site in homes:
        return homes.setdefault(caller.site, route_of(record))
    return NO_ROUTE


def _in_a_thread(group: StatementGroup) -> str:
    """How the code that blocks would run in a thread, as it is called today."""
    if group.caller is None:
        return "declare the endpoint with `def`, so that it runs in a thread"
    name, phase = group.caller.site.function, group.caller.phase
    if not group.caller.by_framework or phase >= Phase.MIDDLEWARE:
        called = group.call_site.function if group.call_site not in {None, group.caller.site} else "the call"
        return f"run {called} in a thread: `await run_in_threadpool(…)` in {name}"
    if phase == Phase.DEPENDENCIES:
        return f"declare the dependency {name} with `def`, so that it runs in a thread"
    return f"declare the endpoint {name} with `def`, so that it runs in a thread"


def _engine(group: StatementGroup) -> str:
    return f"{group.system} {group.namespace}".rstrip()
