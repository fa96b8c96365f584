"""The app's lifespan: to wrap it, to detect calls from inside of it, and to wait there without blocking."""

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
    """Make every lifespan of the app run as `around(lifespan)`, which must yield the app's state that it yields."""
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
    """True if the app's lifespan is among the callers: then there is a frame of `lifespan` of the app's router."""
    frame = sys._getframe()  # noqa: SLF001 - inspect.stack() reads source files, which takes milliseconds
    while frame is not None:
        if frame.f_code.co_name == "lifespan" and frame.f_locals.get("self") is app.router:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


async def on_a_thread(call: Callable[[], None]) -> None:
    """Run a blocking call on a separate thread, because the app's work may occupy the loop's executor."""
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
    # returns at once, since the thread is ending
    thread.join()
