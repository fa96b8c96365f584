"""The handler of an app's own exception reports it with a blocking call, on the event loop."""

import asyncio
import os
import time
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", route="/accounts/{number}", remedy=("thread|await",)),),
    load=(Send("GET /accounts/{n}", times=24, at_once=2), Send("GET /health", times=50, at_once=1, pause=0.05)),
)


class NoAccountError(Exception):
    pass


app = FastAPI()
setup_telemetry(app)


def report(number: str) -> None:
    assert number
    time.sleep(0.18)  # <- here


@app.exception_handler(NoAccountError)
async def no_account(request: Request, _error: NoAccountError) -> JSONResponse:
    if os.environ.get("FIXED"):
        await asyncio.to_thread(report, request.path_params["number"])
    else:
        report(request.path_params["number"])
    return JSONResponse({"detail": "no such account"}, 404)


@app.get("/accounts/{number}")
async def account(number: int) -> dict[str, int]:
    if number % 2:
        raise NoAccountError
    return {"number": number}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
