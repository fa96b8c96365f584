"""The app's lifespan: how to be around it, how to know that one is inside of it, how to wait there without blocking."""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

from starlette.applications import Starlette

from otel_fastperf.internals.patching import Patch, subscribed

Around = Callable[[AbstractAsyncContextManager[Any]], AbstractAsyncContextManager[Any]]


@contextmanager
def wrapped_lifespan(app: Starlette, around: Around) -> Iterator[None]:
    """Have every lifespan of the app run as `around(lifespan)`. What it yields, the app's state, is passed on."""
    with subscribed(app.router, "lifespan_context", _surrounded, around, around):
        yield


def _surrounded(original: Callable[[Any], AbstractAsyncContextManager[Any]], patch: Patch[Around]) -> Any:
    def lifespan(running: Any) -> AbstractAsyncContextManager[Any]:
        inner = original(running)
        for around in patch.subscribers.values():
            inner = around(inner)
        return inner

    return lifespan


def is_inside_lifespan(app: Starlette) -> bool:
    """Is this called, however deep, from the app's lifespan? Then a frame of its router's `lifespan` is below us."""
    frame = sys._getframe()  # noqa: SLF001 - inspect.stack() reads source files, and costs milliseconds
    while frame is not None:
        if frame.f_code.co_name == "lifespan" and frame.f_locals.get("self") is app.router:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


async def on_a_thread(call: Callable[[], None]) -> None:
    """Run a blocking call on a thread of its own: the loop's executor may be full of the app's work."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            call()
        finally:
            loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=run, name="otel_fastperf-shutdown", daemon=True)
    thread.start()
    await done.wait()
    thread.join()  # it has nothing left to do
