"""A report is computed by many tasks in short steps: no step is a block, and no answer that others await is slow."""

import asyncio
import os
import time
from typing import Final

import httpx
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /report", times=10, at_once=2),
        Send("GET /stock", times=40, at_once=2),
        Send("GET /rate", times=40, at_once=2),
    ),
    also=("blocking_call",),
    databases=("sqlite", "postgresql"),
    neighbour=True,
)

PARTS = 4 if os.environ.get("FIXED") else 60
engine = create_async_engine(os.environ["DATABASE_URL"])
# the loop may have no time to see that a server has closed a connection
client = httpx.AsyncClient(base_url=os.environ["NEIGHBOUR"], limits=httpx.Limits(keepalive_expiry=1.0))
app = FastAPI()
setup_telemetry(app)


async def part(number: int) -> int:
    for _ in range(10):
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            number = number * 7919 % 1009
        await asyncio.sleep(0)
    return number


@app.get("/report")
async def report() -> int:
    return sum(await asyncio.gather(*(part(number) for number in range(PARTS))))


@app.get("/stock")
async def stock() -> int:
    async with engine.connect() as connection:
        return (await connection.execute(text("SELECT 7"))).scalar_one()


@app.get("/rate")
async def rate() -> float:
    return (await client.get("/wait/5")).json()["rate"]
