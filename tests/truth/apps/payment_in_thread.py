"""A `def` endpoint pays with requests; the bank is slow."""

import os
from typing import Final

import requests
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("slow_dependency", route="/v1/payments"),),
    load=(Send("POST /v1/payments", times=16, at_once=4, body={"amount": 12, "iban": "AT61"}),),
    largest="http_client|handler",
    verdict=("{here}",),
    neighbour=True,
)

session = requests.Session()
bank = APIRouter(prefix="/v1")


class Payment(BaseModel):
    amount: int
    iban: str


@bank.post("/payments")
def pay(payment: Payment) -> dict[str, bool]:
    path = "/wait/4" if os.environ.get("FIXED") else "/wait/600"
    response = session.post(os.environ["NEIGHBOUR"] + path, json=payment.model_dump(), timeout=10)  # <- here
    return {"ok": response.json()["ok"]}


app = FastAPI()
app.include_router(bank)
setup_telemetry(app)
