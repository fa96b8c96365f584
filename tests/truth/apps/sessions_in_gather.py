"""Twelve statements side by side, each in a session of its own, from a pool of four connections."""

import asyncio
import os
from typing import Final

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", wrong=("deadlock", "while it holds one"), route="/authors"),),
    also=("pool_wait",),
    load=(Send("GET /authors", times=30, at_once=4),),
    databases=("postgresql",),
    wrong_verdict=("deadlock", "while it holds one"),
)

engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=4, max_overflow=0)
new_session = async_sessionmaker(engine)
app = FastAPI()
setup_telemetry(app)


async def books_of(author: int) -> int:
    async with new_session() as session:
        query = text("SELECT count(*), pg_sleep(0.01) FROM generate_series(1, 100) AS n WHERE n % :author = 0")
        return (await session.execute(query, {"author": author})).first()[0]  # <- here


@app.get("/authors")
async def authors() -> list[int]:
    if os.environ.get("FIXED"):
        async with new_session() as session:
            query = text("SELECT a, count(*) FROM generate_series(1, 12) a, generate_series(1, 100) n GROUP BY a")
            return [number for _, number in await session.execute(query)]
    return await asyncio.gather(*(books_of(author) for author in range(1, 13)))  # <- here
