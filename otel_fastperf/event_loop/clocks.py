"""Two clocks of an event loop: how long it has waited for events so far, and since when it has been running.

libuv counts both for uvloop; on asyncio's own loops the selector's waits are timed. Other loops have neither.
"""

import asyncio
import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import repeat
from math import inf
from typing import Any, Final

Clock = Callable[[], float]
_Failed = Callable[[Exception], None]

#: libuv's `uv_loop_option`, https://docs.libuv.org/en/v1.x/loop.html#c.uv_loop_configure
_UV_METRICS_IDLE_TIME: Final = 1


@contextmanager
def idle_clock(loop: asyncio.AbstractEventLoop, failed: _Failed) -> Iterator[Clock | None]:
    """Seconds that the loop has spent waiting for events. None for a loop of another kind."""
    with _clock(_idle_clock_of, loop, failed) as clock:
        yield clock


@contextmanager
def run_clock(loop: asyncio.AbstractEventLoop, failed: _Failed) -> Iterator[Clock | None]:
    """Since when the loop has run its current iteration, by `time.perf_counter()`; the present while the loop waits.

    What the loop runs now began then, or later. On uvloop it is exact to a millisecond, and may be late for the first
    call in an iteration in which code asks the loop for timers. None for a loop of another kind. Callable from any
    thread.
    """
    with _clock(_run_clock_of, loop, failed) as clock:
        yield clock


@contextmanager
def _clock(
    clock_of: Callable[[asyncio.AbstractEventLoop], AbstractContextManager[Clock | None]],
    loop: asyncio.AbstractEventLoop,
    failed: _Failed,
) -> Iterator[Clock | None]:
    with ExitStack() as exits:
        clock = None
        try:
            clock = exits.enter_context(clock_of(loop))
        except Exception as error:  # noqa: BLE001 - an unknown build of a loop
            failed(error)
        yield clock


@contextmanager
def _idle_clock_of(loop: asyncio.AbstractEventLoop) -> Iterator[Clock | None]:
    if _is_uvloop(loop):
        yield _UvIdleClock(_Libuv(loop))
        return
    with _timed_select(loop) as timed:
        yield None if timed is None else lambda: timed.waited


@contextmanager
def _run_clock_of(loop: asyncio.AbstractEventLoop) -> Iterator[Clock | None]:
    if _is_uvloop(loop):
        yield _UvRunClock(_Libuv(loop))
        return
    with _timed_select(loop) as timed:
        yield None if timed is None else timed.running_since


def _is_uvloop(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).__module__.partition(".")[0] == "uvloop"


class _Libuv:
    """libuv's counters of one loop, readable from any thread, until the loop is closed and after that.

    uvloop does not expose them (MagicStack/uvloop#322), but it does expose the pointer to libuv's loop, which it frees
    with its own. When a loop is closed, libuv frees the counters, and a call that reads them would crash the process.
    """

    __slots__ = ("_is_closed", "_pointer", "idle_time", "info", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        module = sys.modules["uvloop.loop"]
        # PyDLL keeps the GIL: the calls are shorter than a release of it
        libuv: Any = ctypes.PyDLL(module.__file__)
        libuv.uv_loop_configure.argtypes = [ctypes.c_void_p, ctypes.c_int]
        for function in (libuv.uv_metrics_idle_time, libuv.uv_now):
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_uint64
        libuv.uv_metrics_info.argtypes = [ctypes.c_void_p, ctypes.POINTER(_UvMetrics)]
        self.idle_time: Any = libuv.uv_metrics_idle_time
        self.now: Any = libuv.uv_now
        self.info: Any = libuv.uv_metrics_info
        # a function of our own: argument types set on an attribute of `ctypes.pythonapi` would affect all its users
        prototype = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
        self._pointer = prototype(("PyCapsule_GetPointer", ctypes.pythonapi))(module.libuv_get_loop_t_ptr(loop), None)
        # keeps the loop, too
        self._is_closed = loop.is_closed
        # libuv cannot stop counting; it costs one system call per wait that does not end at once
        libuv.uv_loop_configure(self._pointer, _UV_METRICS_IDLE_TIME)

    def readings(self, function: Any, *arguments: Any) -> Iterator[int]:
        """What one of the functions returns for the loop, each time anew, until the loop is closed.

        Another thread may close the loop at any moment at which the interpreter can switch threads, and it can between
        any two calls in Python. So the question whether the loop is closed and the call that depends on it are one
        step of `map`, in C: `iter(is_closed, True)` ends when the loop is closed, else its False is one more argument
        of the function, which C ignores.
        """
        until_closed = iter(self._is_closed, True)  # noqa: FBT003 - the answer that ends it
        return map(function, repeat(self._pointer), *map(repeat, arguments), until_closed)


class _UvMetrics(ctypes.Structure):
    """libuv's `uv_metrics_t`, https://docs.libuv.org/en/v1.x/metrics.html."""

    _fields_ = (
        ("loop_count", ctypes.c_uint64),
        ("events", ctypes.c_uint64),
        ("events_waiting", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 13),
    )


class _UvIdleClock:
    """`idle_clock` of a uvloop. Stands still once the loop is closed."""

    __slots__ = ("_idle", "_last")

    def __init__(self, libuv: _Libuv) -> None:
        self._idle = libuv.readings(libuv.idle_time)
        self._last = 0

    def __call__(self) -> float:
        self._last = next(self._idle, self._last)
        return self._last / 1e9


class _UvRunClock:
    """`run_clock` of a uvloop. Code that sets timers moves libuv's time, so the first reading of an iteration holds."""

    __slots__ = ("_idle", "_known", "_libuv", "_now")

    def __init__(self, libuv: _Libuv) -> None:
        self._libuv = libuv
        self._idle = libuv.readings(libuv.idle_time)
        self._now = libuv.readings(libuv.now)
        #: idle time, number of iterations and result of the last reading
        self._known: tuple[int, int, float] = (0, 0, 0.0)

    def __call__(self) -> float:
        idle = next(self._idle, None)
        if idle is None or next(self._idle, None) != idle:
            return time.perf_counter()
        metrics = _UvMetrics()
        next(self._libuv.readings(self._libuv.info, ctypes.byref(metrics)), None)
        milliseconds = next(self._now, None)
        if milliseconds is None:
            return time.perf_counter()
        # libuv and `time.perf_counter()` use the same clock on Linux, CLOCK_MONOTONIC
        since = milliseconds / 1e3
        known = self._known
        if known[:2] == (idle, metrics.loop_count):
            since = min(since, known[2])
        self._known = (idle, metrics.loop_count, since)
        return since


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

    __slots__ = ("_select", "_waits", "users", "waited", "woke")

    def __init__(self, select: Callable[[float | None], Any]) -> None:
        self._select = select
        #: True while the loop waits
        self._waits = False
        self.users = 0
        self.waited = 0.0
        self.woke = -inf

    def __call__(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            events = self._select(timeout)
            self.woke = time.perf_counter()
            return events
        started = time.perf_counter()
        self._waits = True
        try:
            events = self._select(timeout)
        finally:
            self._waits = False
            self.woke = woke = time.perf_counter()
            self.waited += woke - started
        return events

    def running_since(self) -> float:
        return time.perf_counter() if self._waits else self.woke
