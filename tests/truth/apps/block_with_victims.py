"""One coroutine computes; the pool and the threads beside it are large enough. Its victims have no fault of their own."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="/render", most=1),),
    load=(
        Send("GET /render", times=20, at_once=2),
        Send("GET /stock", times=100, at_once=5),
        Send("GET /threads", times=100, at_once=5),
    ),
    route="GET /stock",
    largest="loop_wait",
    databases=("sqlite", "postgresql"),
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=5)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open all connections, as a service has that runs for a while."""
    async with AsyncExitStack() as connections:
        for _ in range(5):
            await connections.enter_async_context(engine.connect())
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
SECONDS = 0.001 if os.environ.get("FIXED") else 0.3


@app.get("/render")
async def render() -> dict[str, int]:
    count, end = 0, time.thread_time() + SECONDS
    while time.thread_time() < end:  # <- here
        count += 1  # <- here
    return {"count": count}


@app.get("/stock")
async def stock() -> dict[str, int]:
    async with engine.connect() as connection:
        return {"stock": (await connection.execute(text("SELECT 7"))).scalar_one()}


@app.get("/threads")
def threads() -> dict[str, bool]:
    return {"ok": True}
