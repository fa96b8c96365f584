"""`def` endpoints share two printers by a `threading.Semaphore`, in a dependency."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Final

from fastapi import Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("lock_wait", route="/labels"),),
    load=(Send("POST /labels", times=60, at_once=12), Send("GET /health", times=40, at_once=1, pause=0.05)),
    route="POST /labels",
    verdict=("{here}",),
)

app = FastAPI()
setup_telemetry(app)
printers = threading.Semaphore(40 if os.environ.get("FIXED") else 2)


def printer() -> Iterator[int]:
    with printers:  # <- here
        yield 1


@app.post("/labels")
def label(number: Annotated[int, Depends(printer)]) -> dict[str, int]:
    time.sleep(0.09)
    return {"printer": number}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
