"""A middleware looks up every unknown path with a blocking call: requests that match no route are the fault's."""

import os
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="unmatched"),),
    also=("slow_middleware",),
    load=(Send("GET /old/{n}", times=12, at_once=1), Send("GET /health", times=40, at_once=1, pause=0.05)),
    wrong_verdict=("found outside of",),
)

app = FastAPI()


class Redirects:
    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/old") and not os.environ.get("FIXED"):
            time.sleep(0.2)  # <- here
        await self.app(scope, receive, send)


app.add_middleware(Redirects)
setup_telemetry(app)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
