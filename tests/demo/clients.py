"""A client that calls every bottleneck of the demo and its fixed twin, often enough for each fault to be found."""

import asyncio
import time
from typing import Final

import httpx

from demo.catalogue import CATALOGUE, Bottleneck
from demo.load import Load, Plan

#: batches of requests for each endpoint, enough for detectors that need more than one request
BATCHES: Final = 4
#: duration of the requests to steady bottlenecks, longer than a window of `memory_growth`
STEADY_SECONDS: Final = 13
#: time between two requests to a steady bottleneck
STEADY_PERIOD: Final = 0.2


async def call_everything(url: str) -> None:
    shoppers = Load(Plan(shoppers=2, pause=0.2, troubles=False))
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        shopping = asyncio.create_task(shoppers.run(url, float("inf")))
        steady = [asyncio.create_task(call_steadily(client, one)) for one in CATALOGUE if one.steady]
        for bottleneck in CATALOGUE:
            if not bottleneck.steady:
                for path in (bottleneck.faulty, bottleneck.fixed):
                    await call_in_batches(client, path, bottleneck)
        await asyncio.gather(*steady)
        shopping.cancel()
        await asyncio.gather(shopping, return_exceptions=True)


async def call_in_batches(client: httpx.AsyncClient, path: str, bottleneck: Bottleneck) -> None:
    for _ in range(max(BATCHES, 2 * bottleneck.in_a_row)):
        await asyncio.gather(*(client.get(path) for _ in range(bottleneck.at_once)))
        await asyncio.sleep(0.1)


async def call_steadily(client: httpx.AsyncClient, bottleneck: Bottleneck) -> None:
    """Call at fixed times, so that the growth of memory does not depend on how fast answers arrive."""
    until = time.monotonic() + STEADY_SECONDS
    async with asyncio.TaskGroup() as calls:
        while time.monotonic() < until:
            for path in (bottleneck.faulty, bottleneck.fixed):
                calls.create_task(client.get(path))
                await asyncio.sleep(STEADY_PERIOD)
