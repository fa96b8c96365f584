"""Each search computes for 70 ms on the event loop. The routes beside it wait for the loop, and are told so."""

import asyncio
import os
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /search?q={n}", times=80, at_once=4),
        Send("GET /items/{n}", times=200, at_once=3, pause=0.005),
    ),
    also=("blocking_call",),
    route="GET /items/{item_id}",
    largest="loop_wait|handler_await",
    wrong_verdict=("GET /items/{item_id}[^;]*% routing and dependencies",),
)

app = FastAPI()
setup_telemetry(app)
SECONDS = 0.001 if os.environ.get("FIXED") else 0.07


@app.get("/search")
async def search(q: str) -> dict[str, int]:
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        pass
    return {"found": len(q)}


@app.get("/items/{item_id}")
async def item(item_id: int) -> dict[str, int]:
    for _ in range(4):
        await asyncio.sleep(0.002)
    return {"id": item_id}
