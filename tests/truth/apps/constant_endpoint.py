"""Healthy: the first request is slower than the others, as the framework's is; a library is imported late."""

from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(
        Send("GET /", times=30, at_once=1, pause=0.02),
        Send("GET /openapi.json", times=3, at_once=1, pause=0.3),
        Send("GET /late", times=10, at_once=1, pause=0.1),
    ),
    twin=False,
)


def model(number: int) -> type[BaseModel]:
    fields = {f"field{n}": (int, n) for n in range(10)}
    from pydantic import create_model

    return create_model(f"Model{number}", **fields)


async def nothing():
    return {}


app = FastAPI()
for number in range(60):
    app.add_api_route(f"/models/{number}", nothing, response_model=model(number))
setup_telemetry(app)


@app.get("/")
async def root() -> dict[str, str]:
    return {"hello": "world"}


@app.get("/late")
async def late() -> dict[str, str]:
    import decimal
    import xml.dom.minidom

    return {"value": str(decimal.Decimal(1)), "xml": xml.dom.minidom.__name__}
