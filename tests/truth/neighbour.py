"""The slow neighbour: another service, which apps call. It runs in a process of its own.

GET or POST /wait/{ms}           a small JSON object after that many milliseconds
GET or POST /items/{item}/{ms}   the same, one path for each item
GET /tokens/{ms}/{number}        a stream: the first piece after that many milliseconds, then one every 20 ms
GET /status/{code}               that status
GET /bytes/{number}              a body of that many bytes
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


async def wait(request: Request) -> JSONResponse:
    await asyncio.sleep(request.path_params["ms"] / 1000)
    return JSONResponse({"rate": 1.07, "ok": True, "token": "abc"})


async def tokens(request: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.sleep(request.path_params["ms"] / 1000)
        for number in range(request.path_params["number"]):
            yield f"data: token{number}\n\n".encode()
            await asyncio.sleep(0.02)

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def status(request: Request) -> Response:
    return Response(status_code=request.path_params["code"])


async def body(request: Request) -> Response:
    return Response(b"x" * request.path_params["number"])


app = Starlette(
    routes=[
        Route("/wait/{ms:int}", wait, methods=["GET", "POST", "PUT", "DELETE"]),
        Route("/items/{item}/{ms:int}", wait, methods=["GET", "POST"]),
        Route("/tokens/{ms:int}/{number:int}", tokens, methods=["GET", "POST"]),
        Route("/status/{code:int}", status),
        Route("/bytes/{number:int}", body),
    ]
)
