"""`threadpool_wait`: `def` endpoints run in anyio's threads; if all are busy, the next request waits for one.

It takes more than `demo.service.THREADS` concurrent requests to show.
"""

import asyncio
import time
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["threadpool_wait"])

#: time to print a label, in seconds
PRINTER_SECONDS: Final = 0.15


@router.get("/slow/threadpool-wait")
def print_label() -> dict[str, str]:
    """Wait for the printer in a thread."""
    time.sleep(PRINTER_SECONDS)
    return {"label": "printed"}


@router.get("/fast/threadpool-wait")
async def print_label_async() -> dict[str, str]:
    """Wait for the printer on the event loop, which supports any number of concurrent waits."""
    await asyncio.sleep(PRINTER_SECONDS)
    return {"label": "printed"}
