"""`cache_inefficient`: a cache whose key never recurs."""

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from fastapi import APIRouter, Request

from demo.burning import at_speed, calibrated

router = APIRouter(tags=["cache_inefficient"])

#: products on a page
PRODUCTS: Final = range(1, 21)
#: CPU time to compute a page without the cache; short, because it delays every other request
PAGE_SECONDS: Final = 0.01


@router.get("/slow/cache-inefficient")
async def shipping_of_page_by_time(request: Request) -> dict[int, int]:
    """Return the shipping cost of each product on a page; the time of the request is part of the key."""
    routes: int = request.app.state.shipping_routes
    return {product: shipping_at(product, routes, datetime.now(UTC)) for product in PRODUCTS}


@router.get("/fast/cache-inefficient")
async def shipping_of_page(request: Request) -> dict[int, int]:
    """Return the same, with a key that has only what affects the answer."""
    routes: int = request.app.state.shipping_routes
    return {product: shipping(product, routes) for product in PRODUCTS}


@lru_cache(maxsize=256)
def shipping_at(product: int, routes: int, _asked: datetime) -> int:
    """Return the shipping cost in cents, cached by product and time, so no entry is ever reused."""
    return cheapest_route(product, routes)


@lru_cache(maxsize=256)
def shipping(product: int, routes: int) -> int:
    """Return the shipping cost in cents, cached by product."""
    return cheapest_route(product, routes)


def calibrated_routes() -> int:
    """Measure how many routes per product can be compared in `PAGE_SECONDS`."""
    return calibrated(lambda routes: [cheapest_route(product, routes) for product in PRODUCTS], PAGE_SECONDS, first=100)


def cheapest_route(product: int, routes: int) -> int:
    """Return the price in cents of the cheapest route through one of the pairs of depots."""
    pairs = (divmod(number, 40) for number in range(at_speed(routes)))
    return 300 + round(min(math.dist((first, product), (second, 40)) for first, second in pairs))
