"""An `async def` endpoint returns tens of thousands of plain dictionaries without a model: FastAPI turns them to JSON."""

import os
from datetime import date
from typing import Any, Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="/readings"),),
    also=("gc_pause",),
    load=(Send("GET /readings", times=8, at_once=1, pause=0.1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /readings",
)

app = FastAPI()
setup_telemetry(app)
DAY = date(2026, 1, 1)
READINGS: Final = [{"sensor": number, "value": number * 0.5, "day": DAY} for number in range(60_000)]


@app.get("/readings", response_model=None)
async def readings() -> list[dict[str, Any]]:  # <- here
    return READINGS[:50] if os.environ.get("FIXED") else READINGS


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
