"""`threadpool_wait`: `def` endpoints run in anyio's threads; when all are taken, the next request waits for one.

It shows when more requests than `demo.service.THREADS` come at once.
"""

import asyncio
import time
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["threadpool_wait"])

#: what the printer takes for a label
PRINTER_SECONDS: Final = 0.15


@router.get("/slow/threadpool-wait")
def print_label() -> dict[str, str]:
    """Wait for the printer in a thread."""
    time.sleep(PRINTER_SECONDS)
    return {"label": "printed"}


@router.get("/fast/threadpool-wait")
async def print_label_async() -> dict[str, str]:
    """Wait for the printer on the event loop, which can wait for any number of them."""
    await asyncio.sleep(PRINTER_SECONDS)
    return {"label": "printed"}
