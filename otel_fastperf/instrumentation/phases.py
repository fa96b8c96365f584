"""The phases of a request inside of its route (dependencies, handler, serialisation), and its work in threads.

FastAPI has no hooks for these, but all versions so far look up two functions in `fastapi.routing` by name:
`solve_dependencies` and `run_endpoint_function`. Both are wrapped. An endpoint that streams with `yield` does not go
through the second one; its handler phase starts right after its dependencies. Plain Starlette routes call neither, so
all their time belongs to the handler.

FastAPI and Starlette run `def` endpoints and dependencies with `anyio.to_thread.run_sync`, which is wrapped too. So is
`StreamingResponse.stream_response`, because most servers get the pieces from a task of their own.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, Final

import anyio.to_thread
from fastapi import routing
from starlette.responses import StreamingResponse
from starlette.types import Send

from otel_fastperf.instrumentation.suspension import TURN, driving, starting
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import RequestRecord, current_record
from otel_fastperf.requests.time_budget import Cause, Phase
from otel_fastperf.signals import Signals

_Function = Callable[..., Awaitable[Any]]


@contextmanager
def instrument_endpoints(signals: Signals) -> Iterator[None]:
    """Note the phases of requests that belong to `signals`, until the end of the block."""
    with ExitStack() as patches:
        for module, name, wrap in _PLACES:
            patches.enter_context(subscribed(module, name, wrap, signals, signals))
        yield


def _observed(patch: Patch[Signals]) -> RequestRecord | None:
    """The record of the running request if it belongs to a subscriber."""
    try:
        record = current_record()
        if record is None or record.ended or id(record.owner) not in patch.subscribers:
            return None
    except Exception as error:  # noqa: BLE001 - the request goes on without its phases
        _failed(patch, error)
        return None
    return record


def _note(record: RequestRecord, start: float, end: float, cause: int, patch: Patch[Signals]) -> None:
    try:
        record.waited(start, end, cause)
    except Exception as error:  # noqa: BLE001 - the application gets what its function returned
        _failed(patch, error)


def _failed(patch: Patch[Signals], error: Exception) -> None:
    for signals in patch.subscribers.values():
        signals.guard.failed("requests", error)


def _timing_dependencies(original: _Function, patch: Patch[Signals]) -> _Function:
    @wraps(original)
    async def solve_dependencies(*arguments: Any, **options: Any) -> Any:
        record = _observed(patch)
        if record is None:
            return await original(*arguments, **options)
        record.enter(Phase.DEPENDENCIES)
        solved = await original(*arguments, **options)
        record.enter(Phase.HANDLER)
        return solved

    return solve_dependencies


def _timing_endpoint(original: _Function, patch: Patch[Signals]) -> _Function:
    @wraps(original)
    async def run_endpoint_function(*arguments: Any, **options: Any) -> Any:
        record = _observed(patch)
        if record is None:
            return await original(*arguments, **options)
        record.enter(Phase.HANDLER)
        result = await original(*arguments, **options)
        record.enter(Phase.SERIALIZATION)
        return result

    return run_endpoint_function


def _timing_threads(original: _Function, patch: Patch[Signals]) -> _Function:
    @wraps(original)
    async def run_sync(func: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        record = _observed(patch)
        if record is None:
            return await original(func, *arguments, **options)

        ended = 0.0

        def timed(*values: Any) -> Any:
            nonlocal ended
            started = time.perf_counter()
            try:
                return func(*values)
            finally:
                ended = time.perf_counter()
                _note(record, started, ended, Cause.IN_THREAD, patch)

        result = await original(timed, *arguments, **options)
        now = time.perf_counter()
        if now - ended > TURN:
            _note(record, ended, now, Cause.LOOP_WAIT, patch)
        return result

    return run_sync


def _driving_stream(original: _Function, patch: Patch[Signals]) -> _Function:
    @wraps(original)
    async def stream_response(self: StreamingResponse, send: Send) -> None:
        record = _observed(patch)
        if record is None or not record.suspended:
            await original(self, send)
            return
        starting(record, Phase.HANDLER)
        await driving(original(self, send), record, patch.subscribers[id(record.owner)])

    return stream_response


_PLACES: Final[tuple[tuple[ModuleType | type, str, Callable[[_Function, Patch[Signals]], _Function]], ...]] = (
    (routing, "solve_dependencies", _timing_dependencies),
    (routing, "run_endpoint_function", _timing_endpoint),
    (anyio.to_thread, "run_sync", _timing_threads),
    (StreamingResponse, "stream_response", _driving_stream),
)
