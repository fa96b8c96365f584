"""Healthy: five layers of BaseHTTPMiddleware that do next to nothing, over endpoints that answer, wait and stream."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /quick", times=120, at_once=4, pause=0.01),
        Send("GET /wait", times=60, at_once=6),
        Send("GET /stream", times=20, at_once=4),
        Send("POST /upload", times=20, at_once=2, size=300_000),
    ),
    twin=False,
    quick=True,
)


class RequestId(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        request.state.id = uuid.uuid4().hex
        response = await call_next(request)
        response.headers["x-request-id"] = request.state.id
        return response


class Tenant(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        request.state.tenant = request.headers.get("x-tenant", "none")
        return await call_next(request)


class Locale(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        request.state.locale = request.headers.get("accept-language", "en")[:2]
        return await call_next(request)


class Security(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-frame-options"] = "DENY"
        return response


class Nothing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


app = FastAPI()
for layer in (RequestId, Tenant, Locale, Security, Nothing):
    app.add_middleware(layer)
setup_telemetry(app)


@app.get("/quick")
async def quick(request: Request) -> dict[str, str]:
    return {"id": request.state.id}


@app.get("/wait")
async def wait() -> dict[str, bool]:
    await asyncio.sleep(0.12)
    return {"ok": True}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 1000
            await asyncio.sleep(0.03)

    return StreamingResponse(pieces())


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return {"size": size}
