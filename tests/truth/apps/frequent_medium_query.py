"""A query of 140 ms is most of a route that is called all the time. It is below any absolute threshold."""

import os
from typing import Final

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_query", route="/search"),),
    load=(Send("GET /search?q=a", times=60, at_once=3), Send("GET /health", times=40, at_once=1, pause=0.05)),
    route="GET /search",
    largest="db",
    databases=("postgresql",),
    quick=True,
)

engine = create_async_engine(os.environ["DATABASE_URL"])
app = FastAPI()
setup_telemetry(app)
SECONDS = 0.002 if os.environ.get("FIXED") else 0.14


@app.get("/search")
async def search(q: str) -> dict[str, int]:
    query = text("SELECT count(*) FROM generate_series(1, 50) n WHERE n::text LIKE :q OR pg_sleep(:s) IS NULL")
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_sleep(:s)"), {"s": SECONDS})  # <- here
        return {"found": (await connection.execute(query, {"q": f"%{q}%", "s": 0})).scalar_one()}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
