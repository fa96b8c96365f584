"""A response model of 16,000 rows is validated and written on the event loop."""

import os
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(
        Expected(
            "large_result|blocking_call|gc_pause",
            route="/export",
            line="here?",
            remedy=("fewer|stream|pag|rows",),
            wrong=("outside of requests",),
        ),
    ),
    load=(Send("GET /export", times=10, at_once=1), Send("GET /health", times=50, at_once=1, pause=0.05)),
    route="GET /export",
    largest="serialization|gc",
)


class Address(BaseModel):
    street: str
    city: str


class Person(BaseModel):
    id: int
    name: str
    tags: list[str]
    address: Address


app = FastAPI()
setup_telemetry(app)
NUMBER = 50 if os.environ.get("FIXED") else 16_000
people = [
    {"id": n, "name": f"n{n}", "tags": ["a", "b"], "address": {"street": "s", "city": "c"}} for n in range(NUMBER)
]


@app.get("/export", response_model=list[Person])
async def export():  # <- here
    return people


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
