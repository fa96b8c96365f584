"""Sends an app's load."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.truth.header import Send

_TIMEOUT = 60.0
#: the server may close an idle connection at the moment at which a request is sent on it
_TRIES = 3


async def send(url: str, load: Sequence[Send], lasts: float = 0.0) -> Counter[str]:
    """Send it, for `lasts` seconds if that is not 0.

    Returns how often each outcome came: a status, `left`, or the name of an exception.
    """
    outcomes: Counter[str] = Counter()
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=limits) as client:
        await asyncio.gather(*(_run(client, url, part, outcomes, lasts) for part in load))
    return outcomes


async def _run(client: httpx.AsyncClient, url: str, part: Send, outcomes: Counter[str], lasts: float) -> None:
    await asyncio.sleep(part.after)
    numbers = _until(time.monotonic() + lasts) if lasts else iter(range(1, part.times + 1))
    await asyncio.gather(*(_client(client, url, part, numbers, outcomes) for _ in range(part.at_once)))


def _until(end: float) -> Iterator[int]:
    return itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(1))


async def _client(
    client: httpx.AsyncClient, url: str, part: Send, numbers: Iterator[int], outcomes: Counter[str]
) -> None:
    for number in numbers:
        outcomes[await _tried(client, url, part, number)] += 1
        await asyncio.sleep(part.pause)


async def _tried(client: httpx.AsyncClient, url: str, part: Send, number: int) -> str:
    for left in reversed(range(_TRIES)):
        try:
            return await _outcome(client, url, part, number)
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            if not left:
                return type(error).__name__
        except httpx.HTTPError as error:
            return type(error).__name__
    raise AssertionError


async def _outcome(client: httpx.AsyncClient, url: str, part: Send, number: int) -> str:
    method, _, path = part.request.partition(" ")
    path = path.replace("{n}", str(number))
    if method == "WS":
        return await _websocket(url.replace("http", "ws", 1) + path, str(part.body or "hello"))
    content = b"\0" * part.size if part.size else part.body.encode() if isinstance(part.body, str) else None
    json = None if content is not None else part.body
    asked = client.request(method, path, content=content, json=json, headers=dict(part.headers))
    if not part.leave:
        return str((await asked).status_code)
    try:
        return str((await asyncio.wait_for(asked, part.leave)).status_code)
    except TimeoutError:
        return "left"


async def _websocket(url: str, text: str) -> str:
    async with connect(url) as socket:
        await socket.send(text)
        try:
            while True:
                await asyncio.wait_for(socket.recv(), _TIMEOUT)
        except ConnectionClosed:
            return "closed"
