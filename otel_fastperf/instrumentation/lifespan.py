"""The app's lifespan: to wrap it, to detect calls from inside of it, and to wait there without blocking."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Final

from starlette.applications import Starlette

from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.internals.waiting import called_by_trio, running_loop


@asynccontextmanager
async def _some_lifespan() -> Any:
    yield


#: contextlib's context manager around an asynchronous generator
_GeneratorManager: Final[type[Any]] = type(_some_lifespan())

Around = Callable[[AbstractAsyncContextManager[Any]], AbstractAsyncContextManager[Any]]


@contextmanager
def wrapped_lifespan(app: Starlette, around: Around, guard: Guard) -> Iterator[None]:
    """Make every lifespan of the app run as `around(lifespan)`, which must yield the app's state that it yields."""
    with subscribed(app.router, "lifespan_context", _surrounded, around, (around, guard)):
        yield


def _surrounded(
    original: Callable[..., AbstractAsyncContextManager[Any]], patch: Patch[tuple[Around, Guard]]
) -> Callable[..., AbstractAsyncContextManager[Any]]:
    # the arguments are those of the app's own function
    def lifespan(*arguments: Any, **options: Any) -> AbstractAsyncContextManager[Any]:
        inner = original(*arguments, **options)
        for around, guard in patch.subscribers.values():
            try:
                inner = around(inner)
            except Exception as error:  # noqa: BLE001 - the app starts unobserved
                guard.failed("installation", error)
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


def at_end_of_running_lifespan(app: Starlette, call: Callable[[], Awaitable[None]]) -> bool:
    """Have `call()` awaited when the lifespan that is among the callers has ended. False if that cannot be done.

    A lifespan is a generator inside of contextlib's context manager, which reads its attribute `gen` again at the end.
    """
    outermost = None
    frame = sys._getframe()  # noqa: SLF001 - as above
    while frame is not None:
        inner = frame.f_locals.get("self")
        if frame.f_code.co_name == "__aenter__" and isinstance(inner, _GeneratorManager):
            outermost = inner
        elif frame.f_code.co_name == "lifespan" and inner is app.router:
            break
        frame = frame.f_back  # type: ignore[assignment]
    if outermost is None:
        return False
    outermost.gen = _ThenAwaiting(outermost.gen, call)
    return True


class _ThenAwaiting:
    """A lifespan's generator whose second half is followed by a call."""

    def __init__(self, generator: Any, call: Callable[[], Awaitable[None]]) -> None:
        self._generator = generator
        self._call = call

    def __getattr__(self, name: str) -> Any:
        """Whatever else contextlib asks for."""
        return getattr(self._generator, name)

    async def __anext__(self) -> Any:
        """The end of the lifespan."""
        try:
            return await self._generator.__anext__()
        finally:
            await self._call()

    async def athrow(self, *error: Any) -> Any:
        """The end of a lifespan whose server failed."""
        try:
            return await self._generator.athrow(*error)
        finally:
            await self._call()


async def on_a_thread(call: Callable[[], object]) -> None:
    """Run a blocking call on a separate thread, because the app's work may occupy the loop's executor."""
    loop = running_loop()
    if loop is None:
        await called_by_trio(call)
        return
    done = asyncio.Event()

    def run() -> None:
        try:
            call()
        finally:
            with suppress(RuntimeError):  # the loop did not wait for it
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="otel_fastperf-shutdown", daemon=True).start()
    await done.wait()
