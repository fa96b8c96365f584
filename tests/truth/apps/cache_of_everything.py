"""A cache whose key is the request's id: it never hits."""

import functools
import os
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("cache_inefficient"),),
    load=(Send("GET /quote/{n}", times=1500, at_once=4),),
    environment={"OTEL_FASTPERF_CACHE_INTERVAL": "1"},
)

app = FastAPI()
setup_telemetry(app)
FIXED = bool(os.environ.get("FIXED"))


@functools.lru_cache(maxsize=64)  # <- here
def premium(customer: int) -> float:  # <- here
    return customer * 1.07


@app.get("/quote/{request_id}")
async def quote(request_id: int) -> dict[str, float]:
    return {"premium": premium(request_id % 20 if FIXED else request_id)}
