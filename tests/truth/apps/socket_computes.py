"""A websocket endpoint sleeps with `time.sleep` between its messages. The loop stands still for everybody."""

import asyncio
import os
import time
from typing import Final

from fastapi import FastAPI, WebSocket

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="WS /quotes", remedy=("await|to_thread|thread",)),),
    load=(Send("WS /quotes", times=8, at_once=1, pause=0.2), Send("GET /health", times=60, at_once=1, pause=0.05)),
)

app = FastAPI()
setup_telemetry(app)


def next_quote(number: int) -> float:
    time.sleep(0.2)  # <- here
    return 100.0 + number


@app.websocket("/quotes")
async def quotes(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    for number in range(3):
        quote = await asyncio.to_thread(next_quote, number) if os.environ.get("FIXED") else next_quote(number)
        await socket.send_json({"quote": quote})
    await socket.close()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
