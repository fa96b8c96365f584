"""A semaphore lets one page be rendered at a time; a task group waits for the parts."""

import asyncio
import os
from typing import Final

from fastapi import APIRouter, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", message=("emaphore",)),),
    load=(Send("GET /pages/{n}", times=24, at_once=6),),
    route="GET /pages/{number}",
    largest="handler_await|lock_wait",
    quick=True,
)

renders = asyncio.Semaphore(100 if os.environ.get("FIXED") else 1)
router = APIRouter()


async def render(part: str) -> str:
    async with renders:  # <- here
        await asyncio.sleep(0.06)
        return f"<{part}>"


@router.get("/pages/{number}")
async def page(number: int) -> dict[str, str]:
    async with asyncio.TaskGroup() as group:
        top = group.create_task(render("header"))
        bottom = group.create_task(render("footer"))
    return {"html": top.result() + bottom.result()}


app = FastAPI()
app.include_router(router)
setup_telemetry(app)
