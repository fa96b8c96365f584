"""Endpoints that fail before and after the response has started."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

router = APIRouter(prefix="/failures", tags=["failures"])


class WarehouseError(Exception):
    """The warehouse does not answer."""


@router.get("/before-response")
async def fail() -> None:
    """Fail with status 500."""
    message = "the warehouse does not answer"
    raise WarehouseError(message)


@router.get("/after-first-byte", response_class=StreamingResponse)
async def fail_halfway() -> StreamingResponse:
    """Fail after status 200 and the first bytes have been sent: the client receives a truncated response."""
    return StreamingResponse(_half(), media_type="text/plain")


async def _half() -> AsyncIterator[str]:
    yield "the first half\n"
    message = "the warehouse stopped answering"
    raise WarehouseError(message)
