"""An engine is made in the dependency, for each request."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("client_per_request", remedy=("engine",)),),
    load=(Send("GET /version", times=60, at_once=2),),
    databases=("sqlite", "postgresql"),
)

app = FastAPI()
setup_telemetry(app)
once = create_async_engine(os.environ["DATABASE_URL"]) if os.environ.get("FIXED") else None


async def get_session() -> AsyncIterator[AsyncSession]:
    engine = once or create_async_engine(os.environ["DATABASE_URL"])  # <- here
    async with async_sessionmaker(engine)() as session:
        yield session
    if once is None:
        await engine.dispose()


@app.get("/version")
async def version(session: Annotated[AsyncSession, Depends(get_session)]) -> dict[str, int]:
    return {"version": (await session.execute(text("SELECT 3"))).scalar_one()}
