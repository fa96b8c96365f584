"""A dependency lets one request at a time into a slow device, with a limiter of anyio."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Final

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/devices/scan"),),
    load=(Send("POST /devices/scan", times=40, at_once=8), Send("GET /health", times=40, at_once=1, pause=0.1)),
    route="POST /devices/scan",
    verdict=("{here}",),
)

limiters: list[CapacityLimiter] = []
router = APIRouter(prefix="/devices")


async def device() -> AsyncIterator[int]:
    if not limiters:
        limiters.append(CapacityLimiter(40 if os.environ.get("FIXED") else 1))
    async with limiters[0]:  # <- here
        yield 7


@router.post("/scan")
async def scan(number: Annotated[int, Depends(device)]) -> dict[str, int]:
    await asyncio.sleep(0.09)
    return {"device": number}


app = FastAPI()
app.include_router(router)
setup_telemetry(app)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
