"""The shop that the examples of these pages share: a SQLite file and sessions for it."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

from fastapi import Depends
from sqlalchemy import AsyncAdaptedQueuePool, ForeignKey, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker
from sqlalchemy.orm import Session as SyncSessionType


class Base(AsyncAttrs, DeclarativeBase):
    """Base of the tables."""


class Order(Base):
    """A purchase."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list["Item"]] = relationship()


class Item(Base):
    """A line of an order."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)


class User(Base):
    """A customer."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


class Visit(Base):
    """A page that a customer has viewed."""

    __tablename__ = "visits"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(index=True)
    email: Mapped[str]


ORDERS: Final = 50
USERS: Final = 200
VISITS: Final = 40_000

_folder: Final = tempfile.TemporaryDirectory(prefix="otel-fastperf-shop-")
_FILE: Final = Path(_folder.name, "shop.sqlite3").as_posix()

sync_engine: Final = create_engine(f"sqlite:///{_FILE}", pool_logging_name="shop_sync")


def new_engine(pool_size: int) -> AsyncEngine:
    """Make an engine with a pool of exactly `pool_size` connections."""
    return create_async_engine(
        f"sqlite+aiosqlite:///{_FILE}", poolclass=AsyncAdaptedQueuePool, pool_size=pool_size, max_overflow=0
    )


engine: Final = new_engine(5)
_sessions: Final = async_sessionmaker(engine)
_sync_sessions: Final = sessionmaker(sync_engine)


async def _session() -> AsyncIterator[AsyncSession]:
    async with _sessions() as session:
        yield session


def _sync_session() -> Iterator[SyncSessionType]:
    with _sync_sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(_session)]
SyncSession = Annotated[SyncSessionType, Depends(_sync_session)]


@contextmanager
def opened() -> Iterator[None]:
    """Create the tables and fill them; delete the file at the end."""
    Base.metadata.create_all(sync_engine)
    with _sync_sessions.begin() as session:
        session.add_all(Order(items=[Item(), Item()]) for _ in range(ORDERS))
        session.add_all(User(id=number, email=f"{number}@example.com") for number in range(1, USERS + 1))
    with sync_engine.begin() as connection:
        users = [number % USERS + 1 for number in range(VISITS)]
        rows = [{"user_id": user, "email": f"{user}@example.com"} for user in users]
        connection.execute(insert(Visit), rows)
    try:
        yield
    finally:
        sync_engine.dispose()
        _folder.cleanup()
