"""Healthy: tasks put events into queues, and responses send them. The tasks last; no request waits for their work."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /events", times=12, at_once=4),
        Send("POST /reports", times=20, at_once=2, pause=0.05),
        Send("GET /health", times=40, at_once=1, pause=0.05),
    ),
    wrong_verdict=("GET /events[^;]*none of the known", "POST /reports[^;]*none of the known"),
    twin=False,
)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
running: set[asyncio.Task[None]] = set()


async def produce(queue: asyncio.Queue[str | None]) -> None:
    for number in range(12):
        await asyncio.sleep(0.08)
        await queue.put(f"data: {number}\n\n")
    await queue.put(None)


async def consume(queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
    while (event := await queue.get()) is not None:
        yield event


@app.get("/events")
async def events() -> StreamingResponse:
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    producer = asyncio.create_task(produce(queue))
    running.add(producer)
    producer.add_done_callback(running.discard)
    return StreamingResponse(consume(queue), media_type="text/event-stream")


async def write_report() -> None:
    await asyncio.sleep(0.6)


@app.post("/reports", status_code=202)
async def reports() -> dict[str, int]:
    task = asyncio.create_task(write_report())
    running.add(task)
    task.add_done_callback(running.discard)
    return {"running": len(running)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
