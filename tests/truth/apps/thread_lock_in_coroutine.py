"""A coroutine takes a threading lock that a thread of the app's holds for a while: the loop stands still."""

import os
import threading
import time
from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call|lock_wait"),),
    load=(Send("GET /cache", times=80, at_once=2, pause=0.05),),
    also=("lock_wait",),
)

app = FastAPI()
setup_telemetry(app)
lock = threading.Lock()
cache = {"value": 1}


def refresh_for_ever() -> None:
    while True:
        time.sleep(0.2)
        fresh = {"value": cache["value"] + 1}
        if os.environ.get("FIXED"):
            time.sleep(0.25)
        with lock:
            if not os.environ.get("FIXED"):
                time.sleep(0.25)
            cache.update(fresh)


threading.Thread(target=refresh_for_ever, daemon=True).start()


def read() -> int:
    with lock:  # <- here
        return cache["value"]


@app.get("/cache")
async def cached() -> dict[str, int]:
    return {"value": read()}
