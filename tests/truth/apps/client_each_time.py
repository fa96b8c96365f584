"""A new httpx client for each request, so no connection is ever reused."""

import os
from typing import Final

import httpx
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("client_per_request", remedy=("lifespan|once|reuse|share",)),),
    load=(Send("GET /translate/{word}", times=60, at_once=3),),
    neighbour=True,
    quick=True,
)

app = FastAPI()
setup_telemetry(app)
shared = httpx.AsyncClient() if os.environ.get("FIXED") else None


async def translated(client: httpx.AsyncClient, word: str) -> str:
    answer = await client.get(f"{os.environ['NEIGHBOUR']}/wait/8", params={"word": word})
    return answer.json()["token"]


@app.get("/translate/{word}")
async def translate(word: str) -> dict[str, str]:
    if shared is not None:
        return {"translation": await translated(shared, word)}
    async with httpx.AsyncClient() as client:  # <- here
        return {"translation": await translated(client, word)}
