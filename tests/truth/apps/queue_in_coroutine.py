"""A coroutine takes a result from a `queue.Queue`, which blocks until a thread has put it there."""

import asyncio
import os
import queue
import threading
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="/thumbnails/{n}", remedy=("thread|await|asyncio",)),),
    load=(
        Send("GET /thumbnails/{n}", times=16, at_once=2),
        Send("GET /health", times=50, at_once=1, pause=0.05),
    ),
)

app = FastAPI()
setup_telemetry(app)
jobs: "queue.Queue[tuple[int, queue.Queue[int]]]" = queue.Queue()


def work() -> None:
    while True:
        number, answer = jobs.get()
        time.sleep(0.15)
        answer.put(number)


threading.Thread(target=work, daemon=True).start()


@app.get("/thumbnails/{n}")
async def thumbnail(n: int) -> dict[str, int]:
    answer: queue.Queue[int] = queue.Queue()
    jobs.put((n, answer))
    if os.environ.get("FIXED"):
        return {"thumbnail": await asyncio.to_thread(answer.get)}
    return {"thumbnail": answer.get()}  # <- here


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
