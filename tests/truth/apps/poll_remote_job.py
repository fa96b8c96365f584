"""Slow by none of the known reasons: a job of another service is polled every 100 ms. That is no N+1."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /exports/{n}", times=16, at_once=4),),
    largest="handler_await",
    verdict=("none of the known reasons", "{here}"),
    neighbour=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
POLLS = 1 if os.environ.get("FIXED") else 10


@app.get("/exports/{number}")
async def export(number: int, request: Request) -> dict[str, int]:
    for poll in range(POLLS):
        answer = await request.app.state.client.get(f"/items/{number}/4")
        if answer.json()["ok"] and poll == POLLS - 1:
            break
        await asyncio.sleep(0.1)  # <- here
    return {"number": number}
