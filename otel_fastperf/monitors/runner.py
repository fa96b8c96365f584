"""Runs the monitors on an event loop: in the app's lifespan, or, if none runs, from the first request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TypeAlias

from otel_fastperf.internals.guard import Guard

#: makes a context manager that monitors the running loop's process while its block runs
Monitor: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


class MonitorRunner:
    """Starts all monitors of one app together, and stops them in reverse order."""

    def __init__(self, monitors: Sequence[Monitor], guard: Guard) -> None:
        self._monitors = tuple(monitors)
        self._guard = guard
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] = lambda: None
        self._stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the monitors on the running loop. One that fails to start is counted and skipped."""
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as exits:
            for monitor in self._monitors:
                try:
                    await exits.enter_async_context(monitor())
                except Exception as error:  # noqa: BLE001 - the app starts without this one
                    self._guard.failed("monitors", error)
            yield
        self._loop = None

    def start_in_running_loop(self, *, after: float) -> asyncio.Event | None:
        """Run the monitors in a task of the running loop, starting in `after` seconds.

        Returns an event that is set when they run; None if they already run on this loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return None
        self._loop = loop
        started, done = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            async with self.running():
                started.set()
                await done.wait()

        def start() -> None:
            if not self._stopped:
                # the closure keeps the task alive: the loop itself holds only weak references to its tasks
                task = loop.create_task(run(), name="otel_fastperf-monitors")
                self._stop = lambda: task.done() or loop.call_soon_threadsafe(done.set)

        loop.call_later(after, start)
        return started

    def stop(self) -> None:
        """End the task that `start_in_running_loop` started. Safe to call from any thread."""
        self._stopped = True
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self._stop()
