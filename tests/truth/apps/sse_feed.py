"""Healthy: server-sent events to several clients that stay for a while; nothing is slow, it lasts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /events", times=12, at_once=6),
        Send("GET /events", times=6, at_once=2, leave=0.7),
        Send("GET /state", times=100, at_once=2, pause=0.03),
    ),
    twin=False,
)

app = FastAPI()
setup_telemetry(app)
ticks = 0


async def feed(number: int) -> AsyncIterator[str]:
    global ticks
    for tick in range(number):
        ticks += 1
        yield f"data: {tick}\n\n"
        await asyncio.sleep(0.1)


@app.get("/events")
async def events() -> StreamingResponse:
    return StreamingResponse(feed(20), media_type="text/event-stream")


@app.get("/state")
async def state() -> dict[str, int]:
    return {"ticks": ticks}
