"""`lock_wait`: a lock is kept during a call to another service, so requests queue for it.

It takes more than one concurrent request to show.
"""

import asyncio
from typing import Final

from fastapi import APIRouter

router = APIRouter(tags=["lock_wait"])

#: the carrier's response time in seconds
CARRIER_SECONDS: Final = 0.15


class Parcels:
    """Numbers parcels. Two requests must not get the same number."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.latest = 0

    async def announce_inside(self) -> int:
        """Announce the parcel to the carrier while the lock is kept."""
        async with self.lock:
            self.latest += 1
            await announced()
        return self.latest

    async def announce_outside(self) -> int:
        """Keep the lock for the number only."""
        async with self.lock:
            self.latest += 1
        await announced()
        return self.latest


PARCELS: Final = Parcels()


async def announced() -> None:
    """Wait for the carrier, which needs no number."""
    await asyncio.sleep(CARRIER_SECONDS)


@router.get("/slow/lock-wait")
async def announce_one_by_one() -> dict[str, bool]:
    """Announce a parcel after those of all requests before."""
    return {"announced": await PARCELS.announce_inside() > 0}


@router.get("/fast/lock-wait")
async def announce_at_once() -> dict[str, bool]:
    """Announce a parcel."""
    return {"announced": await PARCELS.announce_outside() > 0}
