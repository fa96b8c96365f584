"""How long other requests wait while an endpoint is called."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import httpx

#: the lightest request that there is; telemetry does not count it
PATH: Final = "/health"
#: seconds between two requests
_PAUSE: Final = 0.005


@asynccontextmanager
async def others_beside(client: httpx.AsyncClient) -> AsyncIterator[list[float]]:
    """Send light requests during the `with` block, one after the other; then the list has the seconds of each."""
    seconds: list[float] = []
    over = asyncio.Event()

    async def send() -> None:
        started = time.perf_counter()
        with suppress(httpx.HTTPError):
            await client.get(PATH)
            seconds.append(time.perf_counter() - started)

    async def send_until_over() -> None:
        while not over.is_set():
            await send()
            await asyncio.sleep(_PAUSE)

    # a new connection takes longer
    await send()
    seconds.clear()
    sending = asyncio.create_task(send_until_over())
    try:
        yield seconds
    finally:
        over.set()
        await sending
