"""A class-based dependency makes a new requests session, in a thread, for each request."""

import os
from typing import Annotated, Final

import requests
from fastapi import Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("client_per_request", remedy=("lifespan|once|reuse|share",)),),
    load=(Send("GET /weather", times=60, at_once=3),),
    neighbour=True,
)

shared = requests.Session()
app = FastAPI()
setup_telemetry(app)


class Weather:
    def __init__(self) -> None:
        self.session = shared if os.environ.get("FIXED") else requests.Session()  # <- here

    def today(self) -> float:
        return self.session.get(f"{os.environ['NEIGHBOUR']}/wait/8", timeout=10).json()["rate"]


@app.get("/weather")
def weather(source: Annotated[Weather, Depends()]) -> dict[str, float]:
    return {"degrees": source.today()}
