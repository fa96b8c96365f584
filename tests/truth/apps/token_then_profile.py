"""Healthy: each call needs the answer of the one before it, so nothing can run side by side. The calls are quick."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(load=(Send("GET /me", times=60, at_once=3),), neighbour=True, twin=False)

clients: dict[str, httpx.AsyncClient] = {}


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as client:
        clients["identity"] = client
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.get("/me")
async def me() -> dict:
    identity = clients["identity"]
    token = (await identity.post("/wait/10")).json()["token"]
    user = (await identity.get("/items/user/10", headers={"authorization": token})).json()
    return (await identity.get(f"/items/{user['token']}/10")).json()
