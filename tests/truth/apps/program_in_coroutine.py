"""`subprocess.run` in a coroutine, two calls deep in a service."""

import asyncio
import os
import subprocess
from typing import Annotated, Final

from fastapi import Depends, FastAPI

from otel_fastperf import setup_telemetry
from tests.truth.header import Expected, Send, Truth

TRUTH: Final = Truth(
    expected=(Expected("blocking_call", remedy=("to_thread|create_subprocess|asyncio",), route="/pdf/{number}"),),
    load=(Send("GET /pdf/{n}", times=10, at_once=2), Send("GET /health", times=40, at_once=1, pause=0.05)),
    route="GET /pdf/{number}",
)

app = FastAPI()
setup_telemetry(app)


class Renderer:
    def run(self, *command: str) -> int:
        return subprocess.run(command, check=False).returncode  # <- here

    async def render(self) -> int:
        if os.environ.get("FIXED"):
            return await asyncio.to_thread(self.run, "true")
        return self.run("sleep", "0.25")


@app.get("/pdf/{number}")
async def pdf(number: int, renderer: Annotated[Renderer, Depends()]) -> dict[str, int]:
    return {"status": await renderer.render()}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
