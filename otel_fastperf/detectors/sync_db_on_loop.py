"""Synchronous statements on the event loop's thread, which block all other requests of the worker."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings

#: minimum seconds for a critical finding: people notice such a delay
_CRITICAL: Final = 0.1
#: most lines in the evidence
_MOST_LINES: Final = 5

#: OpenTelemetry's `db.system.name` -> dialect and driver of an async engine
_DRIVERS: Final = {
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "mysql": "mysql+aiomysql",
    "mariadb": "mariadb+aiomysql",
    "oracle.db": "oracle+oracledb_async",
    "microsoft.sql_server": "mssql+aioodbc",
}


def detect_sync_db_on_loop(record: RequestRecord, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield one finding for all synchronous statements of a request that blocked the event loop.

    They must have blocked it for `settings.sync_on_loop` seconds together. The finding names the first of the lines
    that blocked it longest.
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
            " or declare the endpoint with `def`, so that it runs in a thread."
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
        call_site=chosen.call_site,
        seconds=seconds,
    )


def _engine(group: StatementGroup) -> str:
    return f"{group.system} {group.namespace}".rstrip()
