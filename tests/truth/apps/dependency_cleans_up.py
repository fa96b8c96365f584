"""An `async def` dependency with `yield` cleans up with a blocking call, after the endpoint."""

import os
import time
from collections.abc import AsyncIterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("thread|await",), most=1),),
    load=(Send("GET /drafts", times=12, at_once=1, pause=0.1), Send("GET /health", times=50, at_once=1, pause=0.05)),
)

app = FastAPI()
setup_telemetry(app)


def remove_files() -> None:
    time.sleep(0.2)  # <- here


async def workspace() -> AsyncIterator[str]:
    yield "drafts"
    if os.environ.get("FIXED"):
        await run_in_threadpool(remove_files)
    else:
        remove_files()


@app.get("/drafts")
async def drafts(folder: Annotated[str, Depends(workspace)]) -> dict[str, str]:
    return {"folder": folder}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
