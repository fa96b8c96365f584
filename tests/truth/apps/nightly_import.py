"""Healthy: bulk inserts of a thousand rows, chunked reads, a few different statements, three look-ups in a row."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("POST /import", times=10, at_once=1, pause=0.2),
        Send("GET /summary", times=60, at_once=2, pause=0.03),
        Send("GET /three/{n}", times=60, at_once=2, pause=0.03),
    ),
    databases=("sqlite", "postgresql"),
    twin=False,
)

engine = create_async_engine(os.environ["DATABASE_URL"])
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Reading(Base):
    __tablename__ = "readings"
    id: Mapped[int] = mapped_column(primary_key=True)
    sensor: Mapped[int] = mapped_column(index=True)
    value: Mapped[float]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
DB = Annotated[AsyncSession, Depends(get_session)]


@app.post("/import")
async def import_readings(session: DB) -> dict[str, int]:
    rows = [{"sensor": number % 20, "value": number / 7} for number in range(1000)]
    await session.execute(insert(Reading), rows)
    session.add_all(Reading(sensor=1, value=number) for number in range(100))
    await session.commit()
    return {"rows": len(rows)}


@app.get("/summary")
async def summary(session: DB) -> dict[str, float]:
    count = await session.scalar(select(func.count()).select_from(Reading))
    most = await session.scalar(select(func.max(Reading.value)))
    sensors = await session.scalar(select(func.count(func.distinct(Reading.sensor))))
    return {"count": count or 0, "most": most or 0, "sensors": sensors or 0}


@app.get("/three/{number}")
async def three(number: int, session: DB) -> list[float]:
    found = []
    for sensor in range(3):
        query = select(Reading.value).where(Reading.sensor == (number + sensor) % 20).limit(1)
        found.append(await session.scalar(query) or 0.0)
    return found
