"""Every visitor's page is kept in a module's list for ever."""

import os
from typing import Final

from fastapi import FastAPI, Request

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("memory_growth"),),
    load=(Send("GET /visit/{n}", times=150, at_once=1, pause=0.1),),
    environment={
        "OTEL_FASTPERF_MEMORY_INTERVAL": "1",
        "OTEL_FASTPERF_MEMORY_GROWTH_WINDOW": "10",
        "OTEL_FASTPERF_MEMORY_GROWTH_BYTES": "20000000",
    },
)

app = FastAPI()
setup_telemetry(app)
visits: list[bytes] = []  # <- here
MOST = 20 if os.environ.get("FIXED") else 1_000_000


@app.get("/visit/{page}")
async def visit(page: int, request: Request) -> dict[str, int]:
    visits.append(os.urandom(1_000_000))  # <- here
    del visits[:-MOST]
    return {"visits": len(visits)}
