"""Slow by computing, in a thread: passwords are checked in a `def` dependency. The line is told, nothing is blamed."""

import hashlib
import os
import time
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Header

from otel_fastperf import setup_telemetry
from tests.truth.header import Send, Truth

TRUTH: Final = Truth(
    load=(Send("GET /me", times=8, at_once=1, headers={"password": "hunter22"}),),
    largest="dependencies",
    verdict=("{here}",),
    wrong_verdict=("no bottleneck was seen",),
)

app = FastAPI()
setup_telemetry(app)


def rounds(seconds: float) -> int:
    """Rounds that take that long on this machine: one with SHA instructions is several times as fast."""
    began = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 50_000)
    return int(50_000 * seconds / (time.perf_counter() - began))


ROUNDS = rounds(0.005 if os.environ.get("FIXED") else 0.8)


def hashed(password: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", ROUNDS).hex()  # <- here


def user(password: Annotated[str, Header()]) -> str:
    return hashed(password)[:8]


@app.get("/me")
def me(name: Annotated[str, Depends(user)]) -> dict[str, str]:
    return {"name": name}
