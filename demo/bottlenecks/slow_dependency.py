"""`slow_dependency`: each request asks a carrier that takes its time."""

import time
from typing import Final

from fastapi import APIRouter, Request

from demo.partner import CurrentPartners

router = APIRouter(tags=["slow_dependency"])

#: seconds for which an answer is used again
FRESH_SECONDS: Final = 60.0


@router.get("/slow/slow-dependency")
async def days_asked_each_time(partners: CurrentPartners) -> dict[str, int]:
    """Ask the carrier how many days a delivery takes."""
    answer = await partners.client.get("/carrier/days")
    return {"days": answer.json()}


@router.get("/fast/slow-dependency")
async def days_kept(partners: CurrentPartners, request: Request) -> dict[str, int]:
    """Ask once a minute."""
    state = request.app.state
    asked, days = getattr(state, "delivery", (float("-inf"), 0))
    if time.monotonic() - asked > FRESH_SECONDS:
        asked, days = time.monotonic(), (await partners.client.get("/carrier/days")).json()
        state.delivery = asked, days
    return {"days": days}
