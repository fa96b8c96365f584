"""An async dependency of three routes checks a signature by computing on the loop: told once."""

import hashlib
import os
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Header
from starlette.concurrency import run_in_threadpool

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("`def`|thread|process",), most=1),),
    load=(
        Send("GET /orders", times=10, at_once=1, headers={"signature": "a"}),
        Send("GET /carts", times=10, at_once=1, headers={"signature": "b"}),
        Send("GET /users", times=10, at_once=1, headers={"signature": "c"}),
        Send("GET /health", times=50, at_once=1, pause=0.05),
    ),
)

app = FastAPI()
setup_telemetry(app)


def digest(signature: str) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", signature.encode(), b"salt", 1_000_000)  # <- here


async def signed(signature: Annotated[str, Header()]) -> str:
    found = await run_in_threadpool(digest, signature) if os.environ.get("FIXED") else digest(signature)  # <- here
    return found.hex()


router = APIRouter(dependencies=[Depends(signed)])


@router.get("/orders")
async def orders() -> list[int]:
    return [1]


@router.get("/carts")
async def carts() -> list[int]:
    return [2]


@router.get("/users")
async def users() -> list[int]:
    return [3]


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


app.include_router(router)
