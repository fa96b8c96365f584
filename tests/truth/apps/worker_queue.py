"""Slow by none of the known reasons: a request puts a job into a queue and awaits a future that one worker resolves."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("POST /labels/{n}", times=24, at_once=8),),
    largest="handler_await",
    verdict=("none of the known reasons", "{here}"),
    wrong_verdict=("no bottleneck was seen",),
)

jobs: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
PRINTING = 0.005 if os.environ.get("FIXED") else 0.15


async def printer() -> None:
    while True:
        job = await jobs.get()
        await asyncio.sleep(PRINTING)
        if not job.done():
            job.set_result("printed")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(printer())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.post("/labels/{number}")
async def label(number: int) -> dict[str, str]:
    job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await jobs.put(job)
    return {"label": await job}  # <- here
