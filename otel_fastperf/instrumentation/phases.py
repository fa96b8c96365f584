"""Whose turn it is inside of a route: dependencies, the endpoint, serialisation; and whether a thread does the work.

FastAPI tells nobody, but calls two functions of `fastapi.routing` by their names, in every version so far:
`solve_dependencies` and `run_endpoint_function`. Both are wrapped. An endpoint that streams by `yield` is not run by
the second one: it follows its dependencies at once. Plain Starlette routes have neither, and are all handler.

Threads are anyio's: `anyio.to_thread.run_sync` is what FastAPI and Starlette run `def` endpoints and dependencies by.
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
    """Note the phases of requests that belong to `signals`, until the end of the block."""
    with ExitStack() as patches:
        for module, name, timed in _PLACES:
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


_PLACES: Final[tuple[tuple[ModuleType, str, _Timed], ...]] = (
    (routing, "solve_dependencies", _solve_dependencies),
    (routing, "run_endpoint_function", _run_endpoint),
    (anyio.to_thread, "run_sync", _run_in_thread),
)


def _timing(timed: _Timed) -> Callable[[_Function, Patch[Signals]], _Function]:
    """What wraps a function so that calls made for a request of a subscriber go through `timed`."""

    def wrap(original: _Function, patch: Patch[Signals]) -> _Function:
        async def wrapper(*arguments: Any, **options: Any) -> Any:
            record = CURRENT.get()
            if record is None or record.ended or id(record.owner) not in patch.subscribers:
                return await original(*arguments, **options)
            return await timed(record, original, arguments, options)

        return wrapper

    return wrap
