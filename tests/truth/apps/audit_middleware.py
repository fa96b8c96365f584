"""A middleware that writes an audit record before each request."""

import asyncio
import os
from typing import Final

from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import Response

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_middleware", message=("Audit",)),),
    load=(Send("GET /items/{n}", times=60, at_once=3),),
    largest="middleware|middleware_await",
    quick=True,
)

app = FastAPI()
setup_telemetry(app)


class Audit(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:  # <- here
        if not os.environ.get("FIXED"):
            await asyncio.sleep(0.04)
        return await call_next(request)


app.add_middleware(Audit)


@app.get("/items/{item_id}")
async def item(item_id: int) -> dict[str, int]:
    return {"id": item_id}
