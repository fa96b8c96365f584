"""The one table that the apps read: made before a run, dropped after it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

ROWS: Final = 100
#: clients of the load generator, and so connections of each app. The apps of all variants run at once, and PostgreSQL
#: takes a hundred connections by default
CLIENTS: Final = 8

_METADATA: Final = MetaData()
ITEMS: Final = Table(
    "fastperf_benchmark_items", _METADATA, Column("id", Integer, primary_key=True), Column("name", String(20))
)


def engine_for(dsn: str) -> AsyncEngine:
    """An engine with a connection for each client, so that no request waits for one."""
    return create_async_engine(dsn, poolclass=AsyncAdaptedQueuePool, pool_size=CLIENTS, max_overflow=2)


@contextmanager
def seeded(dsn: str | None) -> Iterator[str]:
    """A database with the rows in it, as SQLAlchemy's async URL: the one given, or an SQLite file of its own."""
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
