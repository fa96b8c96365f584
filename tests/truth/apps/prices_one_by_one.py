"""The basket asks the price service for one product after the other."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected("n_plus_one", route="/baskets/{basket_id}", remedy=("gather|batch|one (call|request)|at once",)),
    ),
    load=(Send("GET /baskets/{n}", times=15, at_once=3),),
    largest="http_client|handler_await",
    neighbour=True,
    quick=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.prices = httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"])
    yield
    await app.state.prices.aclose()


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


async def price(client: httpx.AsyncClient, product: int) -> float:
    found = await client.get(f"/items/{product}/20")
    return found.json()["rate"]


@app.get("/baskets/{basket_id}")
async def basket(basket_id: int, request: Request) -> dict[str, float]:
    client = request.app.state.prices
    if os.environ.get("FIXED"):
        found = (await client.get(f"/items/{basket_id}/20", params={"products": "1,2,3,4"})).json()
        return {"total": found["rate"] * 20}
    total = 0.0
    for product in range(basket_id * 100, basket_id * 100 + 20):
        total += await price(client, product)  # <- here
    return {"total": total}
