"""Each slow call needs the answer of the one before it: they cannot run side by side, so nothing may say so."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_dependency"),),
    load=(Send("GET /me", times=20, at_once=4),),
    largest="http_client|handler_await",
    neighbour=True,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
MS = 3 if os.environ.get("FIXED") else 350


@app.get("/me")
async def me(request: Request) -> dict:
    client = request.app.state.client
    token = (await client.post(f"/wait/{MS}")).json()["token"]  # <- here
    user = (await client.get(f"/items/user/{MS}", headers={"authorization": token})).json()  # <- here
    return (await client.get(f"/items/{user['token']}/{MS}")).json()  # <- here
