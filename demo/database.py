"""The shop's database: a SQLite file by default, PostgreSQL if `DATABASE_URL` names one.

On PostgreSQL all tables are in a separate schema, so the database may also hold other data.
"""

import os
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from sqlalchemy import URL, AsyncAdaptedQueuePool, Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

SCHEMA: Final = "otel_fastperf_demo"
DEFAULT: Final = "sqlite:///.demo/shop.sqlite3"
DRIVERS: Final = {"sqlite": ("sqlite+aiosqlite", "sqlite"), "postgresql": ("postgresql+asyncpg", "postgresql+psycopg")}

#: seconds to wait for SQLite's single writer
_SQLITE: Final = {"timeout": 30}

#: size of the two pools of `bottlenecks.pool_wait`
SMALL_POOL: Final = 2


def database_url(environ: Mapping[str, str] = os.environ) -> URL:
    """Return `DATABASE_URL`, or the SQLite file `.demo/shop.sqlite3`. Its driver is replaced according to `DRIVERS`.

    Raises:
        ValueError: The database is neither SQLite nor PostgreSQL.
    """
    url = make_url(environ.get("DATABASE_URL", "").replace("postgres://", "postgresql://", 1) or DEFAULT)
    if url.get_backend_name() not in DRIVERS:
        message = (
            f"DATABASE_URL is for {url.get_backend_name()}; the demo runs on {' and '.join(DRIVERS)}. Remedy: name one"
            " of those, or unset it."
        )
        raise ValueError(message)
    return url


def sync_engine(url: URL, **options: Any) -> Engine:
    """Make a synchronous engine; `options` are passed to `create_engine`."""
    postgresql = {"options": f"-csearch_path={SCHEMA}"}
    options["connect_args"] = _SQLITE if url.get_backend_name() == "sqlite" else postgresql
    return create_engine(url.set(drivername=DRIVERS[url.get_backend_name()][1]), **options)


def async_engine(url: URL, **options: Any) -> AsyncEngine:
    """Make an async engine; `options` are passed to `create_async_engine`."""
    postgresql = {"server_settings": {"search_path": SCHEMA}}
    options["connect_args"] = _SQLITE if url.get_backend_name() == "sqlite" else postgresql
    # SQLAlchemy before 2.0.38 had no pool for SQLite files here
    options["poolclass"] = AsyncAdaptedQueuePool
    return create_async_engine(url.set(drivername=DRIVERS[url.get_backend_name()][0]), **options)


class Database:
    """The engines of one service. They connect at their first statement."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.engine = async_engine(url, pool_logging_name="shop")
        self.sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        #: blocks the event loop if used there, as `bottlenecks.sync_db_on_loop` does
        self.blocking_engine = sync_engine(url, pool_logging_name="shop_sync")
        self.blocking_sessions = sessionmaker(self.blocking_engine)
        #: a pool for each twin, so that the fixed one does not wait for the faulty one
        self.long_checkouts = _small_pool(url, "long_checkouts")
        self.short_checkouts = _small_pool(url, "short_checkouts")

    async def close(self) -> None:
        """Close every connection."""
        for engine in (self.engine, self.long_checkouts, self.short_checkouts):
            await engine.dispose()
        self.blocking_engine.dispose()


def _small_pool(url: URL, name: str) -> AsyncEngine:
    return async_engine(url, pool_size=SMALL_POOL, max_overflow=0, pool_logging_name=name)


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


CurrentDatabase = Annotated[Database, Depends(_database)]


async def _session(database: CurrentDatabase) -> AsyncIterator[AsyncSession]:
    async with database.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(_session)]
