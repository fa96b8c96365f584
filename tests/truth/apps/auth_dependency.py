"""An async dependency asks the identity provider, which is slow, in every request of a router."""

import os
from typing import Final

import httpx
from fastapi import APIRouter, Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_dependency"),),
    load=(Send("GET /a/profile", times=12, at_once=3), Send("GET /a/settings", times=12, at_once=3)),
    largest="http_client|dependencies_await",
    verdict=("{here}",),
    neighbour=True,
)

identity = httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"])
MS = 3 if os.environ.get("FIXED") else 650


class CurrentUser:
    async def __call__(self) -> str:
        found = await identity.get(f"/wait/{MS}")  # <- here
        return found.json()["token"]


router = APIRouter(prefix="/a", dependencies=[Depends(CurrentUser())])


@router.get("/profile")
async def profile() -> dict[str, str]:
    return {"name": "ann"}


@router.get("/settings")
async def settings() -> dict[str, str]:
    return {"theme": "dark"}


app = FastAPI()
app.include_router(router)
setup_telemetry(app)
