"""Slow by computing in Python, in a thread: other threads and the loop share the interpreter, and nothing blocks."""

import os
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /report", times=8, at_once=1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /report",
    largest="handler",
    verdict=("{here}",),
    wrong_verdict=("no bottleneck was seen",),
)

app = FastAPI()
setup_telemetry(app)
ROUNDS = 1_000 if os.environ.get("FIXED") else 15_000_000


def totals(rounds: int) -> int:
    total = 0
    for number in range(rounds):  # <- here
        total += number % 7  # <- here
    return total


@app.get("/report")
def report() -> dict[str, int]:
    return {"total": totals(ROUNDS)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
