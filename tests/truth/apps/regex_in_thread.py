"""A regular expression in a `def` endpoint holds the interpreter for its whole run, so the loop stands still."""

import os
import re
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", line="here?", message=("GIL|no processor",)),),
    load=(Send("GET /check", times=6, at_once=1, pause=0.1), Send("GET /health", times=60, at_once=1, pause=0.05)),
    route="GET /check",
    largest="handler",
)

app = FastAPI()
setup_telemetry(app)
TEXT = "a" * (10 if os.environ.get("FIXED") else 25)


def valid(text: str) -> bool:
    return re.fullmatch(r"(a+)+b", text) is not None  # <- here


@app.get("/check")
def check() -> dict[str, bool]:
    return {"valid": valid(TEXT)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
