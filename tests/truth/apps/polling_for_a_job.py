"""Slow by none of the known reasons: a job is polled with sleeps until it is done. The report says so."""

import asyncio
import itertools
import os
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /jobs/{n}/result", times=16, at_once=4), Send("GET /health", times=30, at_once=1, pause=0.1)),
    largest="handler_await",
    route="GET /jobs/{job_id}/result",
    verdict=("none of the known reasons", "{here}", "sleep"),
    wrong_verdict=("no bottleneck was seen",),
    quick=True,
)

app = FastAPI()
setup_telemetry(app)
POLLS = 2 if os.environ.get("FIXED") else 40


async def finished() -> int:
    for poll in itertools.count():
        if poll == POLLS:
            return poll
        await asyncio.sleep(0.02)  # <- here


@app.get("/jobs/{job_id}/result")
async def result(job_id: int) -> dict[str, int]:
    return {"polls": await finished()}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
