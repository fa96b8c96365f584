"""A webhook reads a body of megabytes with `request.json()`: parsed on the loop, at a line of the app."""

import json
import os
from typing import Final

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call|gc_pause", route="/hooks", wrong=("^the framework",)),),
    load=(
        Send(
            "POST /hooks",
            times=6,
            at_once=1,
            pause=0.1,
            body={"events": [{"id": 12345, "kind": "push", "names": ["a", "b", "c", "d"], "n": 1.25}] * 220_000},
        ),
        Send("GET /health", times=60, at_once=1, pause=0.05),
    ),
    route="POST /hooks",
    also=("gc_pause",),
    twin=False,
)

app = FastAPI()
setup_telemetry(app)


@app.post("/hooks")
async def hooks(request: Request) -> dict[str, int]:
    if os.environ.get("FIXED"):
        return {"events": len((await run_in_threadpool(json.loads, await request.body()))["events"])}
    return {"events": len((await request.json())["events"])}  # <- here


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
