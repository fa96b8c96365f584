"""A `def` endpoint asks the warehouse for each product with requests; the sub-application is mounted."""

import os
from typing import Final

import requests
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="/api/stock", remedy=("one (call|request)|batch|at once|pool",)),),
    load=(Send("GET /api/stock", times=15, at_once=3),),
    neighbour=True,
)

warehouse = requests.Session()
api = FastAPI()
app = FastAPI()
app.mount("/api", api)
setup_telemetry(app)


def stock_of(product: int) -> float:
    return warehouse.get(f"{os.environ['NEIGHBOUR']}/items/{product}/15", timeout=10).json()["rate"]


@api.get("/stock")
def stock() -> dict[str, float]:
    if os.environ.get("FIXED"):
        return {"total": stock_of(0)}
    return {"total": sum(stock_of(product) for product in range(20))}  # <- here
