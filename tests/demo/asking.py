"""A client that asks every bottleneck of the demo, and its fixed twin, often enough for what there is to be found."""

import asyncio
import time
from typing import Final

import httpx

from demo.catalogue import CATALOGUE, Bottleneck
from demo.load import Load, Plan

#: batches of requests that each endpoint gets: enough for each detector that looks at more than one request
BATCHES: Final = 4
#: seconds for what shows in the process only: more than a window of `memory_growth`
STEADY_SECONDS: Final = 13


async def ask_everything(url: str) -> None:
    shoppers = Load(Plan(shoppers=2, pause=0.2, troubles=False))
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        shopping = asyncio.create_task(shoppers.run(url, float("inf")))
        steady = [asyncio.create_task(ask_steadily(client, one)) for one in CATALOGUE if one.steady]
        for bottleneck in CATALOGUE:
            if not bottleneck.steady:
                for path in (bottleneck.faulty, bottleneck.fixed):
                    await ask(client, path, bottleneck.at_once)
        await asyncio.gather(*steady)
        shopping.cancel()
        await asyncio.gather(shopping, return_exceptions=True)


async def ask(client: httpx.AsyncClient, path: str, at_once: int) -> None:
    for _ in range(BATCHES):
        await asyncio.gather(*(client.get(path) for _ in range(at_once)))
        await asyncio.sleep(0.1)


async def ask_steadily(client: httpx.AsyncClient, bottleneck: Bottleneck) -> None:
    until = time.monotonic() + STEADY_SECONDS
    while time.monotonic() < until:
        for path in (bottleneck.faulty, bottleneck.fixed):
            await client.get(path)
            await asyncio.sleep(0.05)
