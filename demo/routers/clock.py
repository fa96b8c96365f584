"""A clock that sends server-sent events: a response that stays open."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

router = APIRouter(tags=["clock"])


@router.get("/clock", response_class=StreamingResponse)
async def clock(
    ticks: Annotated[int, Query(ge=1, le=3600)] = 10, seconds: Annotated[float, Query(ge=0.01, le=60)] = 1.0
) -> StreamingResponse:
    """Send `ticks` events, one every `seconds`."""
    return StreamingResponse(_ticks(ticks, seconds), media_type="text/event-stream")


async def _ticks(ticks: int, seconds: float) -> AsyncIterator[str]:
    for number in range(ticks):
        yield f"id: {number}\ndata: {datetime.now(UTC):%H:%M:%S}\n\n"
        await asyncio.sleep(seconds)
