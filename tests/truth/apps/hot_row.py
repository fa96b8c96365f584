"""Every sale updates the same row, and calls a neighbour before it commits. PostgreSQL."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/sales", wrong=("index",)),),
    load=(Send("POST /sales", times=40, at_once=8),),
    largest="db",
    databases=("postgresql",),
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=20)
new_session = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counters"
    id: Mapped[int] = mapped_column(primary_key=True)
    sold: Mapped[int]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with new_session.begin() as session:
        session.add_all(Counter(id=number, sold=0) for number in range(1, 201))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def confirm() -> None:
    await asyncio.sleep(0.12)


@app.post("/sales")
async def sell() -> dict[str, bool]:
    if os.environ.get("FIXED"):
        await confirm()
        async with new_session.begin() as session:
            number = random.randint(1, 200)
            await session.execute(update(Counter).where(Counter.id == number).values(sold=Counter.sold + 1))
        return {"sold": True}
    async with new_session.begin() as session:
        await session.execute(update(Counter).where(Counter.id == 1).values(sold=Counter.sold + 1))  # <- here
        await confirm()
    return {"sold": True}
