"""A server that a drill kills and starts again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, TypeVar

Server = TypeVar("Server")


class Part(Generic[Server]):
    """`make` gives the context in which the server runs; it must use the same ports each time."""

    def __init__(self, make: Callable[[], AbstractContextManager[Server]]) -> None:
        self.make = make
        self._running = ExitStack()
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The server that runs now."""
        assert self._server is not None, "it does not run"
        return self._server

    @property
    def is_running(self) -> bool:
        """Whether it has been started and not been ended."""
        return self._server is not None

    def start(self) -> Server:
        """Start it, and wait until it answers."""
        self._server = self._running.enter_context(self.make())
        return self._server

    def end(self) -> None:
        """End it, unless it has been ended."""
        self._server = None
        self._running.close()
