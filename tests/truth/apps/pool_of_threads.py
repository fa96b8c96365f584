"""`def` endpoints keep their connection while they ask a slow service, so that quick ones wait for the pool."""

import os
from collections.abc import Iterator
from typing import Annotated, Final

import requests
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("pool_wait", remedy=("shorter|pool_size|before",)),),
    load=(
        Send("POST /bookings", times=24, at_once=4, pause=0.02),
        Send("GET /rooms", times=50, at_once=2, pause=0.05),
    ),
    databases=("sqlite", "postgresql"),
    neighbour=True,
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=3, max_overflow=0)
hotel = requests.Session()
app = FastAPI()
setup_telemetry(app)


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


Database = Annotated[Session, Depends(get_session)]


@app.post("/bookings")
def book(session: Database) -> dict[str, int]:
    number = session.scalar(text("SELECT 7")) or 0  # <- here
    if os.environ.get("FIXED"):
        session.close()
    hotel.post(f"{os.environ['NEIGHBOUR']}/wait/200", timeout=10)
    return {"number": number}


@app.get("/rooms")
def rooms(session: Database) -> int:
    return session.scalar(text("SELECT 42")) or 0  # <- here
