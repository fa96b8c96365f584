"""`pool_wait`: a connection stays checked out during a call to another service, so the next request waits for one.

It takes more than `demo.database.SMALL_POOL` concurrent requests to show.
"""

import asyncio
from typing import Final

from fastapi import APIRouter
from sqlalchemy import select

from demo.database import CurrentDatabase
from demo.models import Product

router = APIRouter(tags=["pool_wait"])

#: the payment service's response time in seconds
PAYMENT_SECONDS: Final = 0.15

STOCK: Final = select(Product.stock).where(Product.id == 1)


async def payment_allowed() -> bool:
    """Ask the payment service, which needs no database."""
    await asyncio.sleep(PAYMENT_SECONDS)
    return True


@router.get("/slow/pool-wait")
async def check_out_in_transaction(database: CurrentDatabase) -> dict[str, bool]:
    """Ask the payment service in the middle of a transaction."""
    async with database.long_checkouts.begin() as connection:
        stock = await connection.scalar(STOCK)
        allowed = await payment_allowed()
    return {"ok": bool(stock) and allowed}


@router.get("/fast/pool-wait")
async def check_out_after_transaction(database: CurrentDatabase) -> dict[str, bool]:
    """Return the connection to the pool first."""
    async with database.short_checkouts.begin() as connection:
        stock = await connection.scalar(STOCK)
    return {"ok": bool(stock) and await payment_allowed()}
