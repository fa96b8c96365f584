"""A CSV upload is parsed and summed up on the loop, line by line."""

import asyncio
import csv
import io
import os
from typing import Final

from fastapi import FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("to_thread|process",), route="/import"),),
    load=(
        Send("POST /import?repeat=250000", times=6, at_once=1, body="a,1,2,3\n"),
        Send("GET /health", times=40, at_once=1, pause=0.05),
    ),
    route="POST /import",
    largest="handler",
)

app = FastAPI()
setup_telemetry(app)


def parse(text: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for name, *numbers in csv.reader(io.StringIO(text)):  # <- here
        totals[name] = totals.get(name, 0) + sum(float(number) for number in numbers)  # <- here
    return totals


@app.post("/import")
async def import_csv(request: Request, repeat: int) -> dict[str, float]:
    text = (await request.body()).decode() * repeat
    if os.environ.get("FIXED"):
        return await asyncio.to_thread(parse, text[:8000])
    return parse(text)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
