"""Healthy: uploads are read in pieces, checked in threads, and worked on in background tasks after the answer."""

import asyncio
import hashlib
import time
from typing import Final

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("POST /images", times=60, at_once=3, size=400_000, pause=0.02),
        Send("GET /images/{n}", times=100, at_once=2, pause=0.02),
    ),
    twin=False,
)

app = FastAPI()
setup_telemetry(app)
done: dict[str, int] = {}


def check(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def shrink(name: str) -> None:
    time.sleep(0.05)
    done[name] = done.get(name, 0) + 1


async def announce(name: str) -> None:
    await asyncio.sleep(0.1)
    done[name] = done.get(name, 0) + 1


@app.post("/images", status_code=202)
async def upload(request: Request, tasks: BackgroundTasks) -> dict[str, str]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
    name = await run_in_threadpool(check, bytes(data))
    tasks.add_task(shrink, name)
    tasks.add_task(announce, name)
    return {"name": name}


@app.get("/images/{name}")
def image(name: str) -> dict[str, int]:
    return {"versions": done.get(name, 0)}
