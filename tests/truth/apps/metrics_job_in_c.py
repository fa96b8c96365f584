"""A timer calls a C function on the loop: no frame of the application is on the stack, so no line may be blamed."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", line=None, wrong=("other threads", "raise the CPU")),),
    load=(Send("GET /health", times=60, at_once=1, pause=0.05),),
)

numbers = range(100 if os.environ.get("FIXED") else 12_000_000)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for second in range(1, 4):
        loop.call_later(second, sum, numbers)
    yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
