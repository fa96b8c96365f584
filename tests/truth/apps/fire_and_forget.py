"""An endpoint starts a task and answers at once; the task computes on the loop, and everybody waits."""

import asyncio
import os
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call"),),
    load=(Send("POST /indexes", times=10, at_once=1, pause=0.3), Send("GET /health", times=60, at_once=1, pause=0.05)),
)

app = FastAPI()
setup_telemetry(app)
running: set[asyncio.Task[None]] = set()


def index() -> int:
    words, end = 0, time.thread_time() + 0.2
    while time.thread_time() < end:  # <- here
        words += len("otel fastperf".split())  # <- here
    return words


async def reindex() -> None:
    await asyncio.sleep(0.01)
    if not os.environ.get("FIXED"):
        index()  # <- here


@app.post("/indexes", status_code=202)
async def start() -> dict[str, int]:
    task = asyncio.create_task(reindex())
    running.add(task)
    task.add_done_callback(running.discard)
    return {"running": len(running)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
