"""Nothing keeps a request once it has ended: not its `Request`, nor its state, body or exception."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import pytest
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool
from starlette.requests import HTTPConnection
from websockets.sync.client import connect

from otel_fastperf import Settings, setup_telemetry
from tests.serving import Served, serve, wait_until

#: requests of each kind
LOAD = 12


class Large:
    """Stands for a body, a user, or what else a request carries in its state."""


class CarryingError(Exception):
    """An exception that carries something."""


@pytest.fixture
def living() -> WeakSet[Large]:
    return WeakSet()


def shop(living: WeakSet[Large]) -> FastAPI:  # noqa: C901 - one endpoint for each way to keep a request
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=2, max_overflow=100)
    leaked: list[Any] = []

    def carry(request: HTTPConnection) -> Large:
        large = request.state.large = Large()
        living.add(large)
        return large

    @app.get("/blocks")
    async def blocks(request: Request) -> str:
        carry(request)
        time.sleep(0.06)
        return "ok"

    @app.get("/blocks-and-fails")
    async def blocks_and_fails(request: Request) -> None:
        large = carry(request)
        time.sleep(0.06)
        raise CarryingError(large)

    @app.get("/fails-in-the-task")
    async def fails_in_the_task(request: Request, tasks: BackgroundTasks) -> str:
        async def fail(large: Large) -> None:
            raise CarryingError(large)

        tasks.add_task(fail, carry(request))
        return "ok"

    @app.get("/streams-and-fails")
    async def streams_and_fails(request: Request) -> StreamingResponse:
        large = carry(request)

        async def body() -> AsyncIterator[bytes]:
            yield b"a"
            raise CarryingError(large)

        return StreamingResponse(body())

    @app.get("/waits")
    async def waits(request: Request) -> str:
        carry(request)
        await asyncio.sleep(0.05)
        return "ok"

    @app.get("/leaks-a-connection")
    def leaks_a_connection(request: Request) -> str:
        carry(request)
        connection = engine.connect()
        leaked.append(connection)
        connection.execute(text("SELECT 1"))
        return "ok"

    @app.get("/excluded")
    async def excluded(request: Request) -> str:
        carry(request)
        return "ok"

    @app.get("/starts-a-task")
    async def starts_a_task(request: Request) -> str:
        carry(request)
        leaked.append(asyncio.create_task(asyncio.sleep(30)))
        return "ok"

    @app.middleware("http")
    async def plain(request: Request, call_next: Callable[..., Any]) -> Any:
        return await call_next(request)

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        carry(socket)
        await socket.accept()
        await socket.close()

    return app


PATHS = (
    "/blocks",
    "/blocks-and-fails",
    "/fails-in-the-task",
    "/streams-and-fails",
    "/waits",
    "/leaks-a-connection",
    "/excluded",
    "/starts-a-task",
    "/missing",
)


def load(server: Served, path: str) -> None:
    for _ in range(LOAD):
        with suppress(Exception):  # a stream that breaks off
            server.get(path)


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_no_request_is_alive_after_the_load(lifespan: str, living: WeakSet[Large]) -> None:
    app = shop(living)
    settings = Settings(
        loop={"blocked": 0.03, "start_after": 0}, awaiting={"after": 0.01}, requests={"excluded_urls": "/excluded"}
    )
    with (
        setup_telemetry(app, settings=settings) as telemetry,
        serve(app, log_level="critical", lifespan=lifespan) as server,
    ):
        for path in PATHS:
            load(server, path)
        for _ in range(LOAD):
            with connect(f"ws://127.0.0.1:{server.port}/socket") as socket, suppress(Exception):
                socket.recv()
        assert telemetry.findings(), "blocks are recorded"

        def alive() -> int:
            gc.collect()
            requests = [each for each in gc.get_objects() if isinstance(each, HTTPConnection)]
            return len(requests) + len(living)

        # uvicorn keeps the last request of each connection for a moment
        wait_until(lambda: not alive(), seconds=10, what="all requests are freed")
