"""The table that the apps read: created before a run, dropped after it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String, Table, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

ROWS: Final = 100
#: clients of the load generator, and so connections of each app. All variants run at once, and PostgreSQL accepts a
#: hundred connections by default
CLIENTS: Final = 8

_METADATA: Final = MetaData()
ITEMS: Final = Table(
    "fastperf_benchmark_items", _METADATA, Column("id", Integer, primary_key=True), Column("name", String(20))
)


def engine_for(dsn: str) -> AsyncEngine:
    """Make an engine with a connection for each client, so that no request waits for one."""
    return create_async_engine(dsn, poolclass=AsyncAdaptedQueuePool, pool_size=CLIENTS, max_overflow=2)


def engine_in_memory() -> Engine:
    """Make a synchronous engine for the rows in SQLite's memory, which lives as long as its only connection."""
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0)
    with engine.begin() as connection:
        _fill(connection)
    return engine


@contextmanager
def seeded(dsn: str | None) -> Iterator[str]:
    """Fill the given database, or a temporary SQLite file, with the rows; yield its async URL for SQLAlchemy."""
    with TemporaryDirectory(prefix="otel-fastperf-bench-", ignore_cleanup_errors=True) as folder:
        url = dsn or f"sqlite+aiosqlite:///{Path(folder, 'items.sqlite3')}"
        asyncio.run(_in(url, _fill))
        try:
            yield url
        finally:
            asyncio.run(_in(url, _METADATA.drop_all))


async def _in(url: str, work: Callable[[Connection], None]) -> None:
    engine = engine_for(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(work)
    finally:
        await engine.dispose()


def _fill(connection: Connection) -> None:
    _METADATA.drop_all(connection)
    _METADATA.create_all(connection)
    connection.execute(insert(ITEMS), [{"id": number, "name": f"item {number}"} for number in range(1, ROWS + 1)])
