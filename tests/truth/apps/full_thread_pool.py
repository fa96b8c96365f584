"""Exports in `def` endpoints take all of anyio's threads; a quick `def` endpoint waits for one."""

import os
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("threadpool_wait", message=("export",), wrong=("endpoint /price.*async def",)),),
    load=(
        Send("GET /export", times=120, at_once=45),
        Send("GET /price", times=60, at_once=4, pause=0.02, after=0.2),
    ),
    route="GET /price",
    largest="threadpool_wait",
    quick=True,
)

app = FastAPI()
setup_telemetry(app)


@app.get("/export")
def export() -> dict[str, int]:  # <- here
    time.sleep(0.02 if os.environ.get("FIXED") else 1.0)  # <- here
    return {"rows": 1}


@app.get("/price")
def price() -> dict[str, int]:
    return {"price": 3}
