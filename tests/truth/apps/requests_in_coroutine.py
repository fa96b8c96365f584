"""A webhook is delivered with requests, inside of an `async def` endpoint."""

import asyncio
import os
from typing import Final

import requests
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("to_thread|httpx|async client",), route="/webhooks/{name}"),),
    load=(Send("POST /webhooks/{n}", times=12, at_once=1), Send("GET /health", times=60, at_once=2, pause=0.05)),
    route="POST /webhooks/{name}",
    neighbour=True,
    quick=True,
)

app = FastAPI()
setup_telemetry(app)


def deliver(name: str) -> int:
    answer = requests.post(f"{os.environ['NEIGHBOUR']}/wait/250", json={"name": name}, timeout=5)  # <- here
    return answer.status_code


@app.post("/webhooks/{name}")
async def webhook(name: str) -> dict[str, int]:
    if os.environ.get("FIXED"):
        async with asyncio.timeout(5):
            return {"status": await asyncio.to_thread(lambda: 200)}
    return {"status": deliver(name)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
