"""Healthy: a decorator around `def` handlers reads a file in its thread. Nothing blocks the loop."""

import functools
import os
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /terms", times=40, at_once=4), Send("GET /health", times=60, at_once=1, pause=0.03)),
    route="GET /terms",
    largest="handler",
    twin=False,
)

app = FastAPI()
setup_telemetry(app)


def audited(handler):
    @functools.wraps(handler)
    def wrapped(*args, **kwargs):
        time.sleep(0.12)
        return handler(*args, **kwargs)

    return wrapped


@app.get("/terms")
@audited
def terms() -> dict[str, str]:
    with open(os.devnull) as file:
        return {"terms": file.read()}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
