"""`blocking_call`: `async def` endpoints that block the event loop, one by waiting and one by computing."""

import asyncio
import time
from random import Random
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["blocking_call"])

#: the bank's response time in seconds
BANK_SECONDS: Final = 0.2
#: CPU time for the search, on any machine; a longer search finds fewer boxes
PACKING_SECONDS: Final = 0.25
#: capacity of a box in litres
BOX: Final = 20.0


@router.get("/slow/blocking-call")
async def price_in_dollars(cents: int = 1_000) -> dict[str, float]:
    """Ask the bank through a synchronous client such as `requests`: no other request is served meanwhile."""
    return {"dollars": cents / 100 * fetch_rate()}


@router.get("/fast/blocking-call")
async def price_in_dollars_async(cents: int = 1_000) -> dict[str, float]:
    """Ask the bank through an async client."""
    return {"dollars": cents / 100 * await fetch_rate_async()}


def fetch_rate() -> float:
    """Return dollars per euro; stands for `requests.get(...)`."""
    time.sleep(BANK_SECONDS)
    return 1.25


async def fetch_rate_async() -> float:
    """Return dollars per euro; stands for `await httpx.AsyncClient().get(...)`."""
    await asyncio.sleep(BANK_SECONDS)
    return 1.25


@router.get("/slow/blocking-cpu")
async def boxes_needed(parcels: int = 60) -> dict[str, int]:
    """Compute on the event loop."""
    return {"boxes": pack(parcels)}


@router.get("/fast/blocking-cpu")
async def boxes_needed_in_thread(parcels: int = 60) -> dict[str, int]:
    """Compute in a thread: the event loop keeps running, but shares the GIL."""
    return {"boxes": await asyncio.to_thread(pack, parcels)}


def pack(parcels: int) -> int:
    """Search for the fewest boxes for the parcels by packing in random order for `PACKING_SECONDS` of CPU time."""
    random = Random(parcels)
    litres = [random.uniform(1, 12) for _ in range(parcels)]
    fewest = parcels
    deadline = time.thread_time() + PACKING_SECONDS
    while time.thread_time() < deadline:
        fewest = min(fewest, first_fit(random.sample(litres, parcels)))
    return fewest


def first_fit(litres: list[float]) -> int:
    """Count the boxes if each parcel goes into the first box with room for it."""
    boxes: list[float] = []
    for size in litres:
        for number, filled in enumerate(boxes):
            if filled + size <= BOX:
                boxes[number] += size
                break
        else:
            boxes.append(size)
    return len(boxes)
