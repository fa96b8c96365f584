"""Waiting for threads in coroutines, whichever event loop runs: asyncio's, or trio's under `hypercorn -k trio`."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import anyio
import anyio.to_thread

_T = TypeVar("_T")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The running event loop; None under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def result_of(future: Future[_T]) -> _T:
    """Wait for what a thread makes. A caller that is cancelled cancels its own wait only."""
    if running_loop() is None:
        return await called_by_trio(future.result)
    return await asyncio.shield(asyncio.wrap_future(future))


async def called_by_trio(call: Callable[[], _T]) -> _T:
    """Make a blocking call on a thread of trio, without a place in the app's limiter."""
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
