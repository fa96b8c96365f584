"""`def` endpoints of a generator of invoice numbers: one threading lock is held while a file is written."""

import os
import threading
import time
from contextlib import nullcontext
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/invoices"),),
    load=(Send("POST /invoices", times=40, at_once=8),),
    verdict=("{here}",),
)

app = FastAPI()
setup_telemetry(app)
lock = nullcontext() if os.environ.get("FIXED") else threading.Lock()
numbers = iter(range(1_000_000))


def next_number() -> int:
    with lock:  # <- here
        time.sleep(0.07)
        return next(numbers)


@app.post("/invoices")
def invoice() -> dict[str, int]:
    return {"number": next_number()}
