"""An `async def` background task writes to a slow place with a blocking call, after the answer."""

import os
import time
from typing import Final

from fastapi import BackgroundTasks, FastAPI
from starlette.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("to_thread|`def`|thread",)),),
    load=(Send("POST /mails", times=8, at_once=1, pause=0.3), Send("GET /health", times=50, at_once=1, pause=0.05)),
)

app = FastAPI()
setup_telemetry(app)


def deliver() -> None:
    time.sleep(0.2)  # <- here


async def send_mail() -> None:
    if os.environ.get("FIXED"):
        await run_in_threadpool(deliver)
    else:
        deliver()


@app.post("/mails", status_code=202)
async def mail(tasks: BackgroundTasks) -> dict[str, bool]:
    tasks.add_task(send_mail)
    return {"accepted": True}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
