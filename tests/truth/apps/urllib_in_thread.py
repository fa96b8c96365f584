"""Slow by none of the known reasons: a `def` dependency reads a page with urllib, which has no spans. Its line is told."""

import os
from typing import Annotated, Final
from urllib.request import urlopen

from fastapi import Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /convert", times=16, at_once=4), Send("GET /health", times=30, at_once=1, pause=0.05)),
    route="GET /convert",
    verdict=("none of the known reasons", "{here}", "urllib"),
    wrong_verdict=("no bottleneck was seen",),
    neighbour=True,
)

app = FastAPI()
setup_telemetry(app)
MS = 4 if os.environ.get("FIXED") else 800


def rates() -> bytes:
    with urlopen(f"{os.environ['NEIGHBOUR']}/wait/{MS}", timeout=10) as page:  # <- here
        return page.read()


@app.get("/convert")
async def convert(found: Annotated[bytes, Depends(rates)]) -> dict[str, int]:
    return {"bytes": len(found)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
