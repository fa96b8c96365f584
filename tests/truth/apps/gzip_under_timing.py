"""Healthy: GZip and CORS under `@app.middleware("http")`, an endpoint that computes a little and awaits a little."""

import asyncio
import time
from typing import Final

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /tiny", times=240, at_once=20),
        Send("GET /large", times=60, at_once=4, headers={"accept-encoding": "gzip"}),
    ),
    twin=False,
    quick=True,
)

app = FastAPI()
setup_telemetry(app)
app.add_middleware(GZipMiddleware, minimum_size=2000)
app.add_middleware(CORSMiddleware, allow_origins=["*"])


@app.middleware("http")
async def timing(request: Request, call_next):
    started = time.perf_counter()
    response = await call_next(request)
    response.headers["x-took"] = f"{time.perf_counter() - started:.4f}"
    return response


def compute(milliseconds: float) -> None:
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass


@app.get("/tiny")
async def tiny() -> dict[str, int]:
    compute(2)
    await asyncio.sleep(0.005)
    compute(2)
    return {"a": 1}


@app.get("/large")
async def large() -> list[str]:
    await asyncio.sleep(0.01)
    return [f"line {number}" for number in range(1000)]
