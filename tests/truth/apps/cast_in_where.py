"""A query that casts a column. The remedy may not take the type for a column. PostgreSQL."""

import os
from typing import Final

from fastapi import FastAPI
from sqlalchemy import create_engine, text

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_query", wrong=(r"index on [^.]*\b(integer|date)\b",), remedy=("index|EXPLAIN",)),),
    load=(Send("GET /events/{n}", times=5, at_once=1),),
    largest="db",
    databases=("postgresql",),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE events (id serial PRIMARY KEY, code text, created timestamp)"))
    connection.execute(
        text("INSERT INTO events (code, created) SELECT n::text, now() FROM generate_series(1, 2000) AS n")
    )

app = FastAPI()
setup_telemetry(app)
CHECK = "" if os.environ.get("FIXED") else " AND (SELECT pg_sleep(0.6)) IS NOT NULL"


@app.get("/events/{code}")
def event(code: int) -> dict[str, int]:
    query = text(f"SELECT id FROM events WHERE code::INTEGER = :code AND created::DATE > '2020-01-01'::DATE{CHECK}")
    with engine.connect() as db:
        return {"id": db.execute(query, {"code": code}).scalar_one()}  # <- here
