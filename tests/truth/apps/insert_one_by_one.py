"""Rows are inserted one statement at a time, in one transaction, by SQLAlchemy Core."""

import os
from typing import Final

from fastapi import FastAPI
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, insert

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", remedy=("executemany|list of|many rows|at once|one statement|bulk",)),),
    load=(Send("POST /measurements", times=12, at_once=2, body=["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]),),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
metadata = MetaData()
measurements = Table("measurements", metadata, Column("id", Integer, primary_key=True), Column("value", String(20)))
metadata.create_all(engine)
app = FastAPI()
setup_telemetry(app)


@app.post("/measurements", status_code=201)
def add(values: list[str]) -> dict[str, int]:
    rows = [{"value": value} for value in values * 4]
    with engine.begin() as connection:
        if os.environ.get("FIXED"):
            connection.execute(insert(measurements), rows)
        else:
            for row in rows:
                connection.execute(insert(measurements).values(row))  # <- here
    return {"added": len(rows)}
