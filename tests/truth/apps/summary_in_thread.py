"""A `def` endpoint makes three independent calls with requests, one after the other."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import requests
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("serial_calls", route="/summary", remedy=("ThreadPoolExecutor",)),),
    also=("slow_dependency",),
    load=(Send("GET /summary", times=20, at_once=2),),
    neighbour=True,
)

session = requests.Session()
executor = ThreadPoolExecutor(12)
app = FastAPI()
setup_telemetry(app)


def fetched(what: str, milliseconds: int) -> float:
    return session.get(f"{os.environ['NEIGHBOUR']}/items/{what}/{milliseconds}", timeout=10).json()["rate"]


@app.get("/summary")
def summary() -> dict[str, float]:
    if os.environ.get("FIXED"):
        orders, visits = executor.submit(fetched, "orders", 120), executor.submit(fetched, "visits", 130)
        return {"returns": fetched("returns", 110), "orders": orders.result(), "visits": visits.result()}
    orders = fetched("orders", 120)  # <- here
    visits = fetched("visits", 130)  # <- here
    returns = fetched("returns", 110)  # <- here
    return {"orders": orders, "visits": visits, "returns": returns}
