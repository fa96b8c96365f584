"""Passwords are hashed with PBKDF2 on the event loop; the healthy twin hashes in a thread."""

import asyncio
import hashlib
import os
import secrets
from typing import Final

from fastapi import FastAPI
from pydantic import BaseModel

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("to_thread|process",), route="/sign-up"),),
    load=(
        Send("POST /sign-up", times=8, at_once=1, pause=0.1, body={"email": "a@b.org", "password": "hunter22"}),
        Send("GET /health", times=40, at_once=2, pause=0.05),
    ),
    route="POST /sign-up",
    quick=True,
)

app = FastAPI()
setup_telemetry(app)


class SignUp(BaseModel):
    email: str
    password: str


def hash_password(password: str) -> str:
    salt = secrets.token_bytes(16)
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 900_000).hex()  # <- here


@app.post("/sign-up", status_code=201)
async def sign_up(user: SignUp) -> dict[str, str]:
    if os.environ.get("FIXED"):
        return {"email": user.email, "hash": await asyncio.to_thread(hash_password, user.password)}
    return {"email": user.email, "hash": hash_password(user.password)}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
