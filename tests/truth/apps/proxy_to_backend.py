"""Healthy: a gateway that passes requests on with one shared client, to a backend that is quick; bodies are streamed."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /api/items/{n}/12", times=100, at_once=3),
        Send("GET /api/bytes/300000", times=40, at_once=2),
        Send("POST /api/wait/5", times=60, at_once=2, body={"a": 1}),
    ),
    neighbour=True,
    twin=False,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"]) as app.state.backend:
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)


@app.api_route("/api/{path:path}", methods=["GET", "POST"])
async def passed_on(path: str, request: Request) -> StreamingResponse:
    backend = request.app.state.backend
    asked = backend.build_request(request.method, f"/{path}", content=await request.body())
    answer = await backend.send(asked, stream=True)
    return StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
