"""A validator of a body looks for duplicates in a list: its loop ends with an `if`, so Python knows no line for it."""

import os
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel, field_validator

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", most=1),),
    load=(
        Send("POST /vouchers", times=8, at_once=1, body={"first": 1, "number": 9_000}),
        Send("GET /health", times=40, at_once=1, pause=0.05),
    ),
)

app = FastAPI()
setup_telemetry(app)


class Vouchers(BaseModel):
    first: int
    number: int

    @field_validator("number")
    @classmethod
    def different(cls, number: int) -> int:
        codes = [str(code) for code in range(number)]
        if os.environ.get("FIXED"):
            return len(set(codes))
        seen: list[str] = []
        for code in codes:
            if code not in seen:  # <- here
                seen.append(code)
        return len(seen)


@app.post("/vouchers")
async def add(vouchers: Vouchers) -> dict[str, int]:
    return {"added": vouchers.number}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
