"""Runs the monitors on event loops: in the app's lifespan, or, if none runs, from the first request.

Several loops may serve an app: those of two servers in threads, or of two `TestClient`s. Each loop has its own monitors
of loops, which end with it. The monitors of the process run on the loop that was there first, and when it ends, on the
next one.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from contextvars import Context
from typing import TypeAlias

from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.waiting import running_loop

#: makes a context manager that monitors the running loop or its process while its block runs
Monitor: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


class MonitorRunner:
    """Starts all monitors of one app together on each event loop, and stops them in reverse order."""

    def __init__(self, of_process: Sequence[Monitor], of_loop: Sequence[Monitor], guard: Guard) -> None:
        """`of_loop` start after `of_process`, whose start-up must not count as blocking."""
        self._of_process = tuple(of_process)
        self._of_loop = tuple(of_loop)
        self._guard = guard
        self._lock = threading.Lock()
        #: by loop, oldest first
        self._runs: dict[asyncio.AbstractEventLoop, _MonitorRun] = {}
        self._stopped = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the monitors on the running loop. One that fails to start is counted and skipped."""
        run = self._begun()
        if run is None:
            yield
            return
        task = self._start(run)
        await run.started.wait()
        try:
            yield
        finally:
            run.stop()
            # not the task itself: whoever cancels the lifespan cancels nothing of ours half-way
            await asyncio.wait([task])

    def start_in_running_loop(self, *, after: float) -> asyncio.Event | None:
        """Run the monitors in a task of the running loop, starting in `after` seconds.

        Returns an event that is set when they run; None if they already run on this loop.
        """
        run = self._begun()
        if run is None:
            return None

        def start() -> None:
            if not self._stopped:
                # kept there: the loop itself holds only weak references to its tasks
                run.task = self._start(run)

        # an empty context: the task would keep what the first request has set
        run.loop.call_later(after, start, context=Context())
        return run.started

    def stop(self) -> None:
        """End the monitors on all loops. Safe to call from any thread."""
        self._stopped = True
        for run in tuple(self._runs.values()):
            run.call(run.stop)

    def _begun(self) -> "_MonitorRun | None":
        """A run for the running loop; None if there is one, or if trio runs."""
        loop = running_loop()
        if loop is None:
            return None
        with self._lock:
            for closed in [each for each in self._runs if each.is_closed()]:
                del self._runs[closed]
            if loop in self._runs:
                return None
            run = self._runs[loop] = _MonitorRun(loop)
        return run

    def _start(self, run: "_MonitorRun") -> "asyncio.Task[None]":
        task = run.loop.create_task(self._run(run), name="otel_fastperf-monitors")
        # whoever closes a loop without cancelling its tasks has left nothing undone here
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio does with its own
        return task

    async def _run(self, run: "_MonitorRun") -> None:
        try:
            async with AsyncExitStack() as exits:
                leads = self._leads(run)
                for monitor in (*self._of_process, *self._of_loop) if leads else self._of_loop:
                    await self._enter(exits, monitor)
                run.started.set()
                while not await run.is_over():
                    if not leads and self._leads(run):
                        leads = True
                        for monitor in self._of_process:
                            await self._enter(exits, monitor)
        finally:
            run.started.set()
            self._ended(run)

    async def _enter(self, exits: AsyncExitStack, monitor: Monitor) -> None:
        try:
            running = monitor()
            await running.__aenter__()
        except Exception as error:  # noqa: BLE001 - the app goes on without this one
            self._guard.failed("monitors", error)
        else:
            exits.push_async_callback(self._exit, running)

    async def _exit(self, running: AbstractAsyncContextManager[None]) -> None:
        try:
            await running.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the others end all the same, and the app as it would
            self._guard.failed("monitors", error)

    def _leads(self, run: "_MonitorRun") -> bool:
        """Whether it is the one to run the monitors of the process."""
        return next(iter(self._runs.values()), None) is run

    def _ended(self, run: "_MonitorRun") -> None:
        with self._lock:
            self._runs.pop(run.loop, None)
            following = next(iter(self._runs.values()), None)
        if following is not None:
            following.call(following.wake.set)


class _MonitorRun:
    """The monitors of one loop. All but `call` must be used on its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.started = asyncio.Event()
        #: set when it should look whether it is over, or leads
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._over = False

    def call(self, what: Callable[[], object]) -> None:
        """Have something called on its loop."""
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(what, context=Context())

    def stop(self) -> None:
        """Have the monitors ended."""
        self._over = True
        self.wake.set()

    async def is_over(self) -> bool:
        """Wait for something to happen; whether it is the end."""
        await self.wake.wait()
        self.wake.clear()
        return self._over
