"""A session of the dependency lives until the last byte of a slow stream: ten listeners take the pool. PostgreSQL."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("pool_wait", remedy=("shorter|pool_size",)),),
    load=(
        Send("GET /progress", times=16, at_once=4, pause=0.05),
        Send("GET /stock", times=40, at_once=2, pause=0.05),
    ),
    databases=("postgresql",),
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=4, max_overflow=0)
new_session = async_sessionmaker(engine)
app = FastAPI()
setup_telemetry(app)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


async def pieces(session: AsyncSession) -> AsyncIterator[str]:
    first = (await session.execute(text("SELECT 1"))).scalar_one()  # <- here
    if os.environ.get("FIXED"):
        await session.close()
    for number in range(first, 8):
        yield f"{number}\n"
        await asyncio.sleep(0.08)


@app.get("/progress")
async def progress(session: Session) -> StreamingResponse:
    return StreamingResponse(pieces(session), media_type="text/plain")


@app.get("/stock")
async def stock(session: Session) -> int:
    return (await session.execute(text("SELECT 7"))).scalar_one()  # <- here
