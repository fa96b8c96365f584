"""A monthly report: the query joins every row with every other."""

import os
from typing import Final

from fastapi import APIRouter, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_query", remedy=("EXPLAIN",), route="/reports/monthly"),),
    load=(Send("GET /reports/monthly", times=4, at_once=1),),
    largest="db",
    databases=("sqlite", "postgresql"),
)

engine = create_async_engine(os.environ["DATABASE_URL"])
numbers = APIRouter(prefix="/reports")
ROWS = 3000 if os.environ.get("FIXED") else 4_000_000


@numbers.get("/monthly")
async def monthly() -> dict[str, int]:
    query = text(
        "WITH RECURSIVE days(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM days WHERE n < :rows)"
        " SELECT count(*) FROM days WHERE n % 7 = 0"
    )
    async with engine.connect() as connection:
        return {"weeks": (await connection.execute(query, {"rows": ROWS})).scalar_one()}  # <- here


app = FastAPI()
setup_telemetry(app)
app.include_router(numbers)
