"""A synchronous driver waits for the database on the event loop's thread, and all other requests wait with it."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings

#: from this many seconds on it is critical: a person notices
_CRITICAL: Final = 0.1
#: lines that are named
_MOST_LINES: Final = 5

#: OpenTelemetry's system -> dialect and driver of an async engine
_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
    "oracle.db": "oracle+oracledb_async",
    "microsoft.sql_server": "mssql+aioodbc",
}


def detect_sync_db_on_loop(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """One finding for all synchronous statements of a request, if they held the loop for `settings.sync_on_loop`.

    It stands at the first line of those that held it long.
    """
    groups = [group for group in tuple(record.statements.values()) if group.loop_count]
    seconds = sum(group.loop_seconds for group in groups)
    if not groups or seconds < settings.sync_on_loop:
        return
    longest = max(group.loop_seconds for group in groups)
    # not the longest: of two alike it would be now the one and now the other
    told = next(group for group in groups if group.loop_seconds >= longest / 2)
    summary = told.query.summary or told.query.operation
    count = sum(group.loop_count for group in groups)
    yield Finding(
        kind=Kind.SYNC_DB_ON_LOOP,
        severity=Severity.CRITICAL if seconds >= _CRITICAL else Severity.WARNING,
        subject=summary,
        message=(
            f"{count} synchronous {'statements' if count > 1 else 'statement'} held the event loop for {seconds:.4f} s:"
            f" {summary!r}{' and others' if len(groups) > 1 else ''} on {_engine(told)}."
        ),
        remedy=(
            f'await an AsyncSession of create_async_engine("{_DRIVERS.get(told.system, told.dialect + "+…")}://…"), or'
            " make the endpoint `def`, so that it runs in a thread"
        ),
        evidence={
            "seconds": seconds,
            "statements": count,
            "lines": tuple(dict.fromkeys(str(group.call_site) for group in groups if group.call_site))[:_MOST_LINES],
            "db.query.summary": summary,
            "db.query.fingerprint": told.query.fingerprint,
            "db.system.name": told.system,
            "db.namespace": told.namespace,
        },
        call_site=told.call_site,
        seconds=seconds,
    )


def _engine(group: StatementGroup) -> str:
    return f"{group.system} {group.namespace}".rstrip()
