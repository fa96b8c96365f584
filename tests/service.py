"""A typical service, for tests that run it under real servers: `uvicorn tests.service:app`."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry

engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite://"))


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """A lifespan of the service itself."""
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
telemetry = setup_telemetry(app)


@app.get("/items/{item_id}")
async def item(item_id: int) -> int:
    """No I/O."""
    return item_id


@app.get("/sql")
async def sql() -> int:
    """One statement."""
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


@app.get("/stream")
async def stream() -> StreamingResponse:
    """A body in pieces."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode()
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces())


@app.get("/later")
async def later(tasks: BackgroundTasks) -> str:
    """A background task."""
    tasks.add_task(asyncio.sleep, 0.05)
    return "ok"


@app.get("/boom")
async def boom() -> None:
    """Fails."""
    raise ValueError("boom")
