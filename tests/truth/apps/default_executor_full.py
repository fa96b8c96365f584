"""Slow by none of the known reasons: `asyncio.to_thread` has few threads, and calls queue for them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /pages/{n}", times=60, at_once=15), Send("GET /health", times=40, at_once=1, pause=0.05)),
    route="GET /pages/{number}",
    largest="handler_await|handler",
    verdict=("none of the known reasons", "{here}"),
    wrong_verdict=("no bottleneck was seen",),
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20 if os.environ.get("FIXED") else 3))
    yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


def scanned(number: int) -> int:
    time.sleep(0.15)  # <- here
    return number


@app.get("/pages/{number}")
async def page(number: int) -> dict[str, int]:
    return {"page": await asyncio.to_thread(scanned, number)}  # <- here


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
