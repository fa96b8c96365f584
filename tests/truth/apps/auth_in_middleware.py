"""A BaseHTTPMiddleware checks each token in a synchronous database, on the loop."""

import os
from typing import Final

from fastapi import FastAPI, Request
from sqlalchemy import create_engine, text
from starlette.middleware.base import BaseHTTPMiddleware

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("sync_db_on_loop", wrong=("make the endpoint", "declare the endpoint")),),
    load=(
        Send("GET /a", times=60, at_once=2, pause=0.01, headers={"token": "t1"}),
        Send("GET /b", times=60, at_once=2, pause=0.01, headers={"token": "t2"}),
    ),
    also=("slow_middleware",),
    databases=("sqlite", "postgresql"),
)

engine = create_engine(os.environ["SYNC_DATABASE_URL"])
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE tokens (token varchar(20))"))
    connection.execute(text("INSERT INTO tokens VALUES (:t)"), [{"t": f"t{n}"} for n in range(20_000)])


def known(token: str) -> bool:
    with engine.connect() as connection:
        return bool(
            connection.execute(text("SELECT count(*) FROM tokens WHERE token = :t"), {"t": token}).scalar()
        )  # <- here


CACHE = {f"t{n}" for n in range(20_000)}


class Auth(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next):
        token = request.headers.get("token", "")
        request.state.known = token in CACHE if os.environ.get("FIXED") else known(token)  # <- here
        return await call_next(request)


app = FastAPI()
app.add_middleware(Auth)
setup_telemetry(app)


@app.get("/a")
async def a(request: Request) -> dict[str, bool]:
    return {"known": request.state.known}


@app.get("/b")
def b(request: Request) -> dict[str, bool]:
    return {"known": request.state.known}
