"""A task of the lifespan recomputes something every half second, on the loop. It belongs to no route."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call"),),
    load=(Send("GET /top", times=80, at_once=2, pause=0.1),),
    route="GET /top",
)

top = {"value": 0}


def recompute() -> None:
    end = time.thread_time() + 0.25
    while time.thread_time() < end:  # <- here
        top["value"] += 1  # <- here


async def keep_recomputing() -> None:
    while True:
        await asyncio.sleep(0.5)
        if not os.environ.get("FIXED"):
            recompute()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_recomputing())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.get("/top")
async def read_top() -> dict[str, int]:
    return top
