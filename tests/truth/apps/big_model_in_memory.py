"""Healthy: a dictionary of 400,000 small objects is loaded at the start, as recommenders do; collections are ordinary."""

from typing import Final

from fastapi import FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /recommend/{n}", times=400, at_once=4, pause=0.01),),
    twin=False,
    quick=True,
)

app = FastAPI()
setup_telemetry(app)
model = {number: [number, [number + 1, number + 2]] for number in range(400_000)}


@app.get("/recommend/{user_id}")
async def recommend(user_id: int) -> dict[str, list[int]]:
    found = [model[(user_id * step) % len(model)][0] for step in range(1, 300)]
    return {"products": found[:10]}
