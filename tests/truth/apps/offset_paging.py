"""Pages deep in a large table, by OFFSET."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_query", remedy=("keyset|after the last|WHERE .*id >|seek",)),),
    load=(Send("GET /events?page=119990", times=12, at_once=1),),
    largest="db",
    databases=("sqlite", "postgresql"),
)

#: rows of a page: SQLite skips some ten million rows a second
ROWS = 50 if "sqlite" in os.environ["DATABASE_URL"] else 10
engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            text(
                "INSERT INTO events (name) WITH RECURSIVE n(i) AS"
                f" (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {120_000 * ROWS}) SELECT 'an event' FROM n"
            )
        )
    yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


class Events:
    def __init__(self, session: Annotated[AsyncSession, Depends(get_session)]) -> None:
        self.session = session

    async def page(self, number: int) -> list[str]:
        query = select(Event.name).where(Event.name != "deleted").order_by(Event.id).limit(ROWS)
        if os.environ.get("FIXED"):
            query = query.where(Event.id > number * ROWS)
        else:
            query = query.offset(number * ROWS)
        return list(await self.session.scalars(query))  # <- here


@app.get("/events")
async def events(page: int, found: Annotated[Events, Depends()]) -> list[str]:
    return await found.page(page)
