"""GZipMiddleware compresses answers of megabytes on the event loop. No line of the app does it."""

import os
import random
from typing import Final

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.middleware.gzip import GZipMiddleware

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call|slow_middleware", line="here?", route="/dump"),),
    also=("slow_middleware", "blocking_call"),
    load=(Send("GET /dump", times=8, at_once=1, pause=0.1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /dump",
    largest="middleware|send",
)

DICE: Final = random.Random(7)
TEXT: Final = "".join(f"{DICE.random()}\n" for _ in range(20 if os.environ.get("FIXED") else 900_000))
app = FastAPI()
app.add_middleware(GZipMiddleware, compresslevel=6)  # <- here
setup_telemetry(app)


@app.get("/dump")
async def dump() -> PlainTextResponse:  # <- here
    return PlainTextResponse(TEXT)  # <- here


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
