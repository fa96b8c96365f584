"""A session is opened for each request and never closed when the item does not exist."""

import os
from typing import Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy import create_engine, exc, text
from sqlalchemy.orm import Session, sessionmaker

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected("pool_wait", message=("leak|never|not (been )?(given|returned|closed)",), route="/items/{item_id}"),
    ),
    load=(Send("GET /items/{n}", times=24, at_once=2, pause=0.1),),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"], pool_size=3, max_overflow=2, pool_timeout=0.5)
SessionLocal = sessionmaker(engine)
app = FastAPI()
setup_telemetry(app)
kept: list[Session] = []


@app.exception_handler(exc.TimeoutError)
def busy(_request: Request, _error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "busy"}, 429)


def find(session: Session, item_id: int) -> int | None:
    return session.execute(text("SELECT :id WHERE :id % 3 = 0"), {"id": item_id}).scalar()  # <- here


@app.get("/items/{item_id}")
def item(item_id: int) -> dict[str, int]:
    session = SessionLocal()
    kept.append(session)
    found = find(session, item_id)
    if found is None:
        if os.environ.get("FIXED"):
            session.close()
        raise HTTPException(404)
    session.close()
    return {"id": found}
