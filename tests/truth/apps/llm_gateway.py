"""A gateway streams the tokens of a language model, whose first token is late."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_dependency", route="/v1/chat/completions"),),
    load=(Send("POST /v1/chat/completions", times=12, at_once=4, body={"prompt": "Tell me"}),),
    largest="http_client|send|handler_await|serialization",
    neighbour=True,
    quick=True,
)


class Prompt(BaseModel):
    prompt: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"], timeout=30) as client:
        app.state.model = client
        yield


app = FastAPI(lifespan=lifespan)
setup_telemetry(app)
FIRST = 20 if os.environ.get("FIXED") else 900


async def tokens(client: httpx.AsyncClient, prompt: str) -> AsyncIterator[bytes]:
    async with client.stream("POST", f"/tokens/{FIRST}/5", json={"prompt": prompt}) as answer:  # <- here
        async for piece in answer.aiter_bytes():  # <- here
            yield piece


@app.post("/v1/chat/completions")
async def complete(prompt: Prompt, request: Request) -> StreamingResponse:
    return StreamingResponse(tokens(request.app.state.model, prompt.prompt), media_type="text/event-stream")
