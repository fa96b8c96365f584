"""A helper opens a session of its own while its caller holds one: with a full pool, they wait for each other."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("pool_wait", remedy=("one session|shorter|pool_size",)),),
    load=(Send("GET /report", times=40, at_once=6),),
    largest="pool_wait|db",
    databases=("postgresql",),
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=7, max_overflow=0, pool_timeout=5)
new_session = async_sessionmaker(engine)
app = FastAPI()
setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


async def audit() -> None:
    async with new_session() as session:
        await session.execute(text("SELECT pg_sleep(0.05)"))  # <- here


@app.get("/report")
async def report(session: Annotated[AsyncSession, Depends(get_session)]) -> dict[str, int]:
    if os.environ.get("FIXED"):
        await session.execute(text("SELECT pg_sleep(0.05)"))
        return {"rows": 1}
    rows = (await session.execute(text("SELECT 1"))).scalar_one()  # <- here
    await audit()
    return {"rows": rows}
