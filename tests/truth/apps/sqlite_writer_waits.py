"""SQLite has one writer: a repository writes first, then asks a slow neighbour, and commits at the end."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import httpx
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", remedy=("Shorten the transaction", "one writer"), route="/visits"),),
    load=(Send("POST /visits", times=30, at_once=4), Send("GET /visits", times=30, at_once=1)),
    largest="db",
    databases=("sqlite",),
    quick=True,
)

neighbour = httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"])
engine = create_async_engine(os.environ["DATABASE_URL"], connect_args={"timeout": 30})


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.execute(text("PRAGMA journal_mode=WAL"))
        await connection.execute(text("CREATE TABLE IF NOT EXISTS visits (id INTEGER PRIMARY KEY, page TEXT)"))
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def connection() -> AsyncIterator[AsyncConnection]:
    async with engine.begin() as opened:
        yield opened


class Visits:
    def __init__(self, database: Annotated[AsyncConnection, Depends(connection)]) -> None:
        self.database = database

    async def add(self, page: str) -> None:
        await self.database.execute(text("INSERT INTO visits (page) VALUES (:page)"), {"page": page})  # <- here

    async def count(self) -> int:
        return (await self.database.execute(text("SELECT count(*) FROM visits"))).scalar_one()


async def notify() -> None:
    await neighbour.get("/wait/80")


@app.post("/visits")
async def visit(visits: Annotated[Visits, Depends(Visits)]) -> dict[str, bool]:
    if os.environ.get("FIXED"):
        await notify()
        await visits.add("home")
    else:
        await visits.add("home")
        await notify()
    return {"seen": True}


@app.get("/visits")
async def number(visits: Annotated[Visits, Depends(Visits)]) -> dict[str, int]:
    return {"number": await visits.count()}
