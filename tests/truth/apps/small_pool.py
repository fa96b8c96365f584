"""A pool of two connections, held while a slow neighbour is asked."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("pool_wait", remedy=("shorter|pool_size",), route="/stock"),),
    load=(Send("GET /stock", times=60, at_once=10),),
    largest="pool_wait",
    databases=("postgresql",),
    quick=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=20 if os.environ.get("FIXED") else 2, max_overflow=0)
new_session = async_sessionmaker(engine)
app = FastAPI()
setup_telemetry(app)


async def session() -> AsyncIterator[AsyncSession]:
    async with new_session() as opened:
        yield opened


@app.get("/stock")
async def stock(db: Annotated[AsyncSession, Depends(session)]) -> dict[str, int]:
    found = (await db.execute(text("SELECT 42"))).scalar_one()  # <- here
    await asyncio.sleep(0.08)
    return {"stock": found}
