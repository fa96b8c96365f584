"""A log handler sends each record over the network, on the event loop."""

import logging
import os
import queue
from logging.handlers import QueueHandler, QueueListener
from typing import Final

import requests
from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("QueueHandler",), route="/orders/{order_id}"),),
    load=(Send("POST /orders/{n}", times=12, at_once=1, pause=0.02), Send("GET /health", times=40, pause=0.05)),
    route="POST /orders/{order_id}",
    neighbour=True,
    quick=True,
)


class Ship(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        requests.post(
            os.environ["NEIGHBOUR"] + "/wait/180", json={"message": self.format(record)}, timeout=3
        )  # <- here


log = logging.getLogger("shop")
log.setLevel(logging.INFO)
if os.environ.get("FIXED"):
    records: queue.Queue = queue.Queue()
    log.addHandler(QueueHandler(records))
    QueueListener(records, Ship()).start()
else:
    log.addHandler(Ship())

app = FastAPI()
setup_telemetry(app)


@app.post("/orders/{order_id}")
async def order(order_id: int) -> dict[str, int]:
    log.info("order %d was placed", order_id)  # <- here
    return {"id": order_id}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
