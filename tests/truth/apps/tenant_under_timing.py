"""A dependency waits for its tenant's turn, inside of `@app.middleware("http")`. It awaits; nothing computes."""

import asyncio
import os
import time
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /reports/{n}", times=24, at_once=4), Send("GET /health", times=30, at_once=1, pause=0.1)),
    route="GET /reports/{report_id}",
    largest="dependencies_await",
    wrong_verdict=("no bottleneck was seen",),
)

app = FastAPI()
setup_telemetry(app)
SECONDS = 0.005 if os.environ.get("FIXED") else 0.8


@app.middleware("http")
async def timing(request: Request, call_next):
    started = time.perf_counter()
    response = await call_next(request)
    response.headers["server-timing"] = f"app;dur={(time.perf_counter() - started) * 1000:.0f}"
    return response


async def turn() -> float:
    await asyncio.sleep(SECONDS)
    return SECONDS


@app.get("/reports/{report_id}")
async def report(report_id: int, waited: Annotated[float, Depends(turn)]) -> dict[str, float]:
    return {"id": report_id, "waited": waited}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
