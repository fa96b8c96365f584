"""Shoppers whose requests have trace ids that the drill knows, so that it can ask Jaeger for each of them."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Final, Self

from demo.load import Call, shopping

#: seconds a shopper waits for an answer; a service that hangs fails them
TIMEOUT: Final = 5.0


@dataclass(frozen=True)
class Request:
    """One request. `status` is None if there was no answer. Times are in seconds since the epoch."""

    path: str
    trace_id: str
    at: float
    status: int | None

    @property
    def failed(self) -> bool:
        """Whether it counts as an error of the service."""
        return self.status is None or self.status >= 500


def ask(port: int, path: str, *, sampled: bool = True) -> Request:
    """GET a path with a trace id of its own. If it is not sampled, the service exports no span of it."""
    trace_id, at, status = token_hex(16), time.time(), None
    headers = {"traceparent": f"00-{trace_id}-{token_hex(8)}-{int(sampled):02}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read()
        status = response.status
    return Request(path, trace_id, at, status)


def healthy_paths(seed: int) -> Iterator[str]:
    """What a shopper reads, endlessly; no endpoint that fails."""
    calls: Iterator[Call] = shopping(seed)
    return (call.path for call in calls if call.method == "GET" and not call.route.startswith("/failures"))


class Shoppers:
    """Send requests to 127.0.0.1 until the end of the block, each after a pause in seconds, and keep them all."""

    def __init__(
        self,
        port: int,
        paths: Callable[[int], Iterator[str]],
        *,
        number: int = 2,
        pause: float = 0.25,
        sampled: bool = True,
    ) -> None:
        self.requests: list[Request] = []
        self._port = port
        self._pause = pause
        self._sampled = sampled
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._shop, args=(paths(seed),)) for seed in range(number)]

    def first_failure(self, since: float) -> float | None:
        """When the first request that failed since then was sent."""
        return next((one.at for one in list(self.requests) if one.at >= since and one.failed), None)

    def answered(self, since: float, until: float) -> list[Request]:
        """The requests sent in this time that had an answer."""
        return [one for one in list(self.requests) if since <= one.at < until and one.status is not None]

    def _shop(self, paths: Iterator[str]) -> None:
        for path in paths:
            if self._stop.wait(self._pause):
                return
            self.requests.append(ask(self._port, path, sampled=self._sampled))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
