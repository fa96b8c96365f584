"""Slow by none of the known reasons: an executor of the app's own has one thread, and calls queue for it."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /scan/{n}", times=30, at_once=8),),
    largest="handler_await",
    verdict=("none of the known reasons", "{here}"),
    wrong_verdict=("no bottleneck was seen",),
)

app = FastAPI()
setup_telemetry(app)
executor = ThreadPoolExecutor(max_workers=16 if os.environ.get("FIXED") else 1)


def scan(number: int) -> int:
    time.sleep(0.1)
    return number


@app.get("/scan/{number}")
async def scanned(number: int) -> dict[str, int]:
    return {"result": await asyncio.get_running_loop().run_in_executor(executor, scan, number)}  # <- here
