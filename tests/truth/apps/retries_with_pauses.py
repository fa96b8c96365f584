"""Slow by none of the known reasons: a flaky service is asked again after growing pauses. That is no N+1."""

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
    load=(Send("GET /balance", times=20, at_once=4), Send("GET /health", times=40, at_once=1, pause=0.05)),
    largest="handler_await",
    route="GET /balance",
    verdict=("none of the known reasons", "{here}", "sleep"),
    neighbour=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
ATTEMPTS = 1 if os.environ.get("FIXED") else 4


async def patiently(client: httpx.AsyncClient, path: str) -> httpx.Response:
    for attempt in range(ATTEMPTS):
        answer = await client.get("/status/503" if attempt < ATTEMPTS - 1 else path)
        if answer.is_success:
            return answer
        await asyncio.sleep(0.1 * 2**attempt)  # <- here
    raise TimeoutError


@app.get("/balance")
async def balance(request: Request) -> float:
    return (await patiently(request.app.state.client, "/wait/5")).json()["rate"]


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
