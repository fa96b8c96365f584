"""`client_per_request`: each request makes a client, and so a new connection."""

import httpx
from fastapi import APIRouter

from demo.partner import CurrentPartners

router = APIRouter(tags=["client_per_request"])


@router.get("/slow/client-per-request")
async def rate_by_a_new_client(partners: CurrentPartners) -> dict[str, int]:
    """Ask the bank with a client of its own."""
    async with httpx.AsyncClient(base_url=partners.url, verify=partners.tls) as client:
        answer = await client.get("/bank/rate")
    return {"rate": answer.json()}


@router.get("/fast/client-per-request")
async def rate_by_the_shared_client(partners: CurrentPartners) -> dict[str, int]:
    """Ask with the client of the app."""
    answer = await partners.client.get("/bank/rate")
    return {"rate": answer.json()}
