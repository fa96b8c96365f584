"""A JSON body of some megabytes is validated by FastAPI on the loop: its endpoint declares that body."""

import os
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("large_result|blocking_call|gc_pause", line="here?", route="/points"),),
    load=(
        Send(
            "POST /points",
            times=5,
            at_once=1,
            pause=0.1,
            body={"points": [{"x": 1.5, "y": 2.5, "tags": ["a", "b", "c"]}] * 60_000},
        ),
        Send("GET /health", times=60, at_once=1, pause=0.05),
    ),
    route="POST /points",
    largest="dependencies|gc",
    twin=False,
)


class Point(BaseModel):
    x: float
    y: float
    tags: list[str]


class Points(BaseModel):
    points: list[Point]


app = FastAPI()
setup_telemetry(app)


@app.post("/points")
async def add(new: Points) -> dict[str, int]:  # <- here
    return {"number": len(new.points)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok", "fixed": os.environ.get("FIXED", "")}
