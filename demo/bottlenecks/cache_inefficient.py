"""`cache_inefficient`: a cache whose key never recurs."""

import math
from datetime import UTC, datetime
from functools import lru_cache

from fastapi import APIRouter

from demo.burning import at_speed

router = APIRouter(tags=["cache_inefficient"])

#: products on a page
PRODUCTS = range(1, 21)


@router.get("/slow/cache-inefficient")
async def shipping_of_page_by_time() -> dict[int, int]:
    """Return the shipping cost of each product on a page; the time of the request is part of the key."""
    return {product: shipping_at(product, datetime.now(UTC)) for product in PRODUCTS}


@router.get("/fast/cache-inefficient")
async def shipping_of_page() -> dict[int, int]:
    """Return the same, with a key that has only what affects the answer."""
    return {product: shipping(product) for product in PRODUCTS}


@lru_cache(maxsize=256)
def shipping_at(product: int, _asked: datetime) -> int:
    """Return the shipping cost in cents, cached by product and time, so no entry is ever reused."""
    return cheapest_way(product)


@lru_cache(maxsize=256)
def shipping(product: int) -> int:
    """Return the shipping cost in cents, cached by product."""
    return cheapest_way(product)


def cheapest_way(product: int) -> int:
    """Return the price in cents of the cheapest of the routes through pairs of depots."""
    depots = at_speed(40)
    ways = (math.dist((first, product), (second, 40)) for first in range(depots) for second in range(40))
    return 300 + round(min(ways))
