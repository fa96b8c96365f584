"""Two clocks of an event loop: how long it has waited for events so far, and when it last woke up.

libuv counts both for uvloop; on asyncio's own loops the selector's waits are timed. Other loops have neither.
"""

import asyncio
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import inf
from typing import Any, Final

Clock = Callable[[], float]
_Failed = Callable[[Exception], None]

#: libuv's `uv_loop_option`, https://docs.libuv.org/en/v1.x/loop.html#c.uv_loop_configure
_UV_METRICS_IDLE_TIME: Final = 1


@contextmanager
def idle_clock(loop: asyncio.AbstractEventLoop, failed: _Failed) -> Iterator[Clock]:
    """Seconds that the loop has spent waiting for events. For a loop of another kind, a clock that always runs."""
    with _clock(_idle_clock_of, loop, time.perf_counter, failed) as clock:
        yield clock


@contextmanager
def wake_clock(loop: asyncio.AbstractEventLoop, failed: _Failed) -> Iterator[Clock]:
    """When the loop last stopped waiting, by `time.perf_counter()`. What it runs now began after that.

    On uvloop it is exact to a millisecond, and later if code asked the loop for the time meanwhile. Minus infinity for
    a loop of another kind. Callable from any thread.
    """
    with _clock(_wake_clock_of, loop, lambda: -inf, failed) as clock:
        yield clock


@contextmanager
def _clock(
    clock_of: Callable[[asyncio.AbstractEventLoop], AbstractContextManager[Clock]],
    loop: asyncio.AbstractEventLoop,
    unknown: Clock,
    failed: _Failed,
) -> Iterator[Clock]:
    with ExitStack() as exits:
        try:
            clock = exits.enter_context(clock_of(loop))
        except Exception as error:  # noqa: BLE001 - an unknown build of a loop
            failed(error)
            clock = unknown
        yield clock


@contextmanager
def _idle_clock_of(loop: asyncio.AbstractEventLoop) -> Iterator[Clock]:
    if _is_uvloop(loop):
        libuv, pointer = _libuv(loop)
        # libuv cannot stop counting; it costs one system call per wait that does not end at once
        libuv.uv_loop_configure(pointer, _UV_METRICS_IDLE_TIME)
        yield lambda: libuv.uv_metrics_idle_time(pointer) / 1e9
        return
    with _timed_select(loop) as timed:
        yield time.perf_counter if timed is None else lambda: timed.waited


@contextmanager
def _wake_clock_of(loop: asyncio.AbstractEventLoop) -> Iterator[Clock]:
    if _is_uvloop(loop):
        libuv, pointer = _libuv(loop)
        # libuv and `time.perf_counter()` use the same clock on Linux, CLOCK_MONOTONIC
        yield lambda: libuv.uv_now(pointer) / 1e3
        return
    with _timed_select(loop) as timed:
        yield (lambda: -inf) if timed is None else lambda: timed.woke


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"


def _libuv(loop: asyncio.AbstractEventLoop) -> tuple[Any, Any]:
    """libuv, and the pointer to its loop, which lives as long as uvloop's.

    uvloop does not expose libuv's counters (MagicStack/uvloop#322), but it does expose the pointer.
    """
    module = sys.modules["uvloop.loop"]
    # PyDLL keeps the GIL: the calls are shorter than a release of it
    libuv: Any = ctypes.PyDLL(module.__file__)
    libuv.uv_loop_configure.argtypes = [ctypes.c_void_p, ctypes.c_int]
    for function in (libuv.uv_metrics_idle_time, libuv.uv_now):
        function.argtypes = [ctypes.c_void_p]
        function.restype = ctypes.c_uint64
    # a function of our own: argument types set on an attribute of `ctypes.pythonapi` would affect all its users
    prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return libuv, prototype(("PyCapsule_GetPointer", ctypes.pythonapi))(module.libuv_get_loop_t_ptr(loop), None)


@contextmanager
def _timed_select(loop: asyncio.AbstractEventLoop) -> Iterator["_TimedSelect | None"]:
    """Time the waits of an asyncio loop. `select` is replaced on this loop's selector object; no class is touched."""
    selector = getattr(loop, "_selector", None)
    if selector is None:
        yield None
        return
    timed = vars(selector).get("select")
    if not isinstance(timed, _TimedSelect):
        timed = selector.select = _TimedSelect(selector.select)
    timed.users += 1
    try:
        yield timed
    finally:
        timed.users -= 1
        if not timed.users and vars(selector).get("select") is timed:
            del selector.select


class _TimedSelect:
    """`selector.select` with a clock. Shared by all monitors of the loop, which may end in any order."""

    __slots__ = ("_select", "users", "waited", "woke")

    def __init__(self, select: Callable[[float | None], Any]) -> None:
        self._select = select
        self.users = 0
        self.waited = 0.0
        self.woke = -inf

    def __call__(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            events = self._select(timeout)
            self.woke = time.perf_counter()
            return events
        started = time.perf_counter()
        events = self._select(timeout)
        self.woke = woke = time.perf_counter()
        self.waited += woke - started
        return events
