"""What a fault does to other requests is measured while its endpoint is called."""

import asyncio
import time

import httpx
import pytest
from fastapi import FastAPI

from demo.beside import PATH, others_beside
from tests.serving import serve

pytestmark = pytest.mark.anyio


async def longest(url: str, path: str) -> float:
    async with httpx.AsyncClient(base_url=url) as client:
        async with others_beside(client) as seconds:
            await client.get(path)
        return max(seconds)


async def test_others_wait_for_a_blocked_loop_and_not_for_one_that_awaits() -> None:
    app = FastAPI()
    app.add_api_route(PATH, lambda: None)

    @app.get("/blocks")
    async def blocks() -> None:
        time.sleep(0.5)

    @app.get("/awaits")
    async def awaits() -> None:
        await asyncio.sleep(0.5)

    with serve(app) as server:
        assert await longest(server.url, "/blocks") >= 0.4
        assert min([await longest(server.url, "/awaits") for _ in range(3)]) < 0.4


async def test_a_request_that_fails_is_not_counted() -> None:
    async def refuse(request: httpx.Request) -> httpx.Response:
        message = "nobody listens"
        raise httpx.ConnectError(message, request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://shop") as client:
        async with others_beside(client) as seconds:
            await asyncio.sleep(0.05)
        assert seconds == []
