"""`serial_calls`: three services are asked one after the other."""

import asyncio

from fastapi import APIRouter

from demo.partner import CurrentPartners

router = APIRouter(tags=["serial_calls"])


@router.get("/slow/serial-calls")
async def offer_in_series(partners: CurrentPartners) -> dict[str, int]:
    """Ask the next service when the one before has answered."""
    price = await partners.client.get("/prices/7")
    reviews = await partners.client.get("/reviews/7")
    bonus = await partners.client.get("/bonus/7")
    return {"price": price.json(), "reviews": reviews.json(), "bonus": bonus.json()}


@router.get("/fast/serial-calls")
async def offer_at_once(partners: CurrentPartners) -> dict[str, int]:
    """Ask all of them at the same time."""
    paths = ("/prices/7", "/reviews/7", "/bonus/7")
    price, reviews, bonus = await asyncio.gather(*(partners.client.get(path) for path in paths))
    return {"price": price.json(), "reviews": reviews.json(), "bonus": bonus.json()}
