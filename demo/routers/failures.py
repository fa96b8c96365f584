"""Endpoints that fail, before and after the response has begun."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

router = APIRouter(prefix="/failures", tags=["failures"])


class WarehouseError(Exception):
    """The warehouse does not answer."""


@router.get("/before-response")
async def fail() -> None:
    """Fail with a 500."""
    message = "the warehouse does not answer"
    raise WarehouseError(message)


@router.get("/after-first-byte", response_class=StreamingResponse)
async def fail_halfway() -> StreamingResponse:
    """Fail when status 200 and the first bytes are out already: the client gets a response that is cut short."""
    return StreamingResponse(_half(), media_type="text/plain")


async def _half() -> AsyncIterator[str]:
    yield "the first half\n"
    message = "the warehouse stopped answering"
    raise WarehouseError(message)
