"""A dashboard of three independent parts, one awaited after the other."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("serial_calls", route="/dashboard", remedy=("gather|TaskGroup",)),),
    also=("slow_dependency",),
    load=(Send("GET /dashboard", times=20, at_once=2),),
    largest="http_client|handler_await",
    neighbour=True,
    quick=True,
)

clients: dict[str, httpx.AsyncClient] = {}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as client:
        clients["backend"] = client
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def weather() -> dict:
    return (await clients["backend"].get("/items/weather/110")).json()


async def news() -> dict:
    return (await clients["backend"].get("/items/news/120")).json()


async def stocks() -> dict:
    return (await clients["backend"].get("/items/stocks/115")).json()


@app.get("/dashboard")
async def dashboard() -> dict:
    if os.environ.get("FIXED"):
        parts = await asyncio.gather(weather(), news(), stocks())
        return {"weather": parts[0], "news": parts[1], "stocks": parts[2]}
    return {
        "weather": await weather(),  # <- here
        "news": await news(),  # <- here
        "stocks": await stocks(),  # <- here
    }
