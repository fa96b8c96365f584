"""The feed asks Redis for one profile after the other, where MGET would do."""

import asyncio
import os
from typing import Final

from fakeredis import FakeAsyncRedis
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("n_plus_one", route="/feed", remedy=("mget|pipeline",)),),
    load=(Send("GET /feed", times=20, at_once=2), Send("GET /profiles/{n}", times=40, at_once=1, pause=0.05)),
    route="GET /feed",
)


class DistantRedis(FakeAsyncRedis):
    """In place of a server in the same data centre: a command takes 3 ms."""

    async def parse_response(self, *args: object, **options: object) -> object:
        await asyncio.sleep(0.003)
        return await super().parse_response(*args, **options)


app = FastAPI()
setup_telemetry(app)
redis = DistantRedis(decode_responses=True)


async def profile(number: int) -> str | None:
    return await redis.get(f"profile:{number}")


@app.get("/feed")
async def feed() -> dict[str, int]:
    if os.environ.get("FIXED"):
        return {"entries": len(await redis.mget([f"profile:{number}" for number in range(30)]))}
    entries = []
    for number in range(30):
        entries.append(await profile(number))  # <- here
    return {"entries": len(entries)}


@app.get("/profiles/{number}")
async def one_profile(number: int) -> dict[str, str | None]:
    return {"profile": await profile(number)}
