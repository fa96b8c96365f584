"""Slow by none of the known reasons: a program is started for each document, and awaited."""

import asyncio
import os
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("POST /convert", times=10, at_once=2, size=20_000),),
    largest="handler_await",
    verdict=("none of the known reasons", "{here}"),
    wrong_verdict=("no bottleneck was seen",),
)

app = FastAPI()
setup_telemetry(app)


async def convert(seconds: str) -> int:
    process = await asyncio.create_subprocess_exec("sleep", seconds)
    return await process.wait()  # <- here


@app.post("/convert")
async def converted() -> dict[str, int]:
    return {"status": await convert("0.01" if os.environ.get("FIXED") else "0.8")}
