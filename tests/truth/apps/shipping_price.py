"""The price of shipping comes from another service, which takes its time."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

import httpx
from fastapi import Depends, FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_dependency", route="/checkout/{country}", wrong=("event loop",)),),
    load=(
        Send("GET /checkout/{n}", times=24, at_once=4),
        Send("GET /countries", times=60, at_once=2, pause=0.05),
    ),
    largest="http_client|handler_await",
    route="GET /checkout/{country}",
    verdict=("{here}",),
    wrong_verdict=("no bottleneck",),
    neighbour=True,
    quick=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"], timeout=10) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


class Shipping:
    def __init__(self, request: Request) -> None:
        self.client: httpx.AsyncClient = request.app.state.client
        self.wait = 5 if os.environ.get("FIXED") else 700

    async def price(self, country: str) -> float:
        answer = await self.client.get(f"/wait/{self.wait}", params={"country": country})  # <- here
        answer.raise_for_status()
        return answer.json()["rate"]


@app.get("/checkout/{country}")
async def checkout(country: str, shipping: Annotated[Shipping, Depends()]) -> dict[str, float]:
    return {"shipping": await shipping.price(country)}


@app.get("/countries")
async def countries() -> list[str]:
    return ["at", "de", "fr"]
