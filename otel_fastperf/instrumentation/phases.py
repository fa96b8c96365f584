"""The phases of a request inside of its route (dependencies, handler, serialisation), and its work in threads.

FastAPI has no hooks for these, but all versions so far look up two functions in `fastapi.routing` by name:
`solve_dependencies` and `run_endpoint_function`. Both are wrapped. An endpoint that streams with `yield` does not go
through the second one; its handler phase starts right after its dependencies. Plain Starlette routes call neither, so
all their time belongs to the handler.

FastAPI and Starlette run `def` endpoints and dependencies with `anyio.to_thread.run_sync`, which is wrapped too.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Final

import anyio.to_thread
from fastapi import routing

from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.requests.time_budget import Cause, Phase
from otel_fastperf.signals import Signals

_Function = Callable[..., Awaitable[Any]]
_Timed = Callable[[RequestRecord, _Function, tuple[Any, ...], dict[str, Any]], Awaitable[Any]]


@contextmanager
def instrument_endpoints(signals: Signals) -> Iterator[None]:
    """Record the phases of requests that belong to `signals`, until the context manager exits."""
    with ExitStack() as patches:
        for module, name, timed in _PATCHES:
            patches.enter_context(subscribed(module, name, _timing(timed), signals, signals))
        yield


async def _solve_dependencies(
    record: RequestRecord, function: _Function, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    record.enter(Phase.DEPENDENCIES)
    solved = await function(*arguments, **options)
    record.enter(Phase.HANDLER)
    return solved


async def _run_endpoint(
    record: RequestRecord, function: _Function, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    record.enter(Phase.HANDLER)
    result = await function(*arguments, **options)
    record.enter(Phase.SERIALIZATION)
    return result


async def _run_in_thread(
    record: RequestRecord, function: _Function, arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    call, *rest = arguments

    def timed(*values: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*values)
        finally:
            record.waited(started, time.perf_counter(), Cause.IN_THREAD)

    return await function(timed, *rest, **options)


#: module, name of the function in it, and what times its calls
_PATCHES: Final[tuple[tuple[ModuleType, str, _Timed], ...]] = (
    (routing, "solve_dependencies", _solve_dependencies),
    (routing, "run_endpoint_function", _run_endpoint),
    (anyio.to_thread, "run_sync", _run_in_thread),
)


def _timing(timed: _Timed) -> Callable[[_Function, Patch[Signals]], _Function]:
    """Return a function for `subscribed` whose wrapper times calls for requests of subscribers by `timed`."""

    def wrap(original: _Function, patch: Patch[Signals]) -> _Function:
        async def wrapper(*arguments: Any, **options: Any) -> Any:
            record = CURRENT.get()
            if record is None or record.ended or id(record.owner) not in patch.subscribers:
                return await original(*arguments, **options)
            return await timed(record, original, arguments, options)

        return wrapper

    return wrap
