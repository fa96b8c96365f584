"""An app that makes its tables while it starts, for tests that run it under real servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry

TABLES = 5


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Make the tables."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        for number in range(TABLES):
            await connection.execute(text(f"CREATE TABLE t{number} (id INTEGER)"))
    yield
    await engine.dispose()


def made() -> FastAPI:
    """The app, unobserved."""
    app = FastAPI(lifespan=lifespan)
    app.get("/items/{item_id}")(lambda item_id: item_id)
    return app


bare = made()
app = made()
setup_telemetry(app)
