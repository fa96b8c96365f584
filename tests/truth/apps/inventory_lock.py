"""All reservations go through one asyncio lock, which is held while something else is awaited."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/reserve/{product}"),),
    load=(Send("POST /reserve/{n}", times=40, at_once=8), Send("GET /health", times=40, at_once=1, pause=0.1)),
    route="POST /reserve/{product}",
    largest="handler_await|lock_wait",
    verdict=("{here}",),
)


class Inventory:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.left = 1000

    async def reserve(self, product: str) -> int:
        async with AsyncExitStack() as stack:
            if not os.environ.get("FIXED"):
                await stack.enter_async_context(self.lock)  # <- here
            await asyncio.sleep(0.1)
            self.left -= 1
            return self.left


app = FastAPI()
setup_telemetry(app)
inventory = Inventory()


@app.post("/reserve/{product}")
async def reserve(product: str) -> dict[str, int]:
    return {"left": await inventory.reserve(product)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
