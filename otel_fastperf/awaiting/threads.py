"""What a request does in a thread: `def` endpoints and dependencies, `run_in_threadpool`, `asyncio.to_thread`.

The await chain of the request ends at a future. The thread that will complete it is known to anyio's frame in the
chain, or works on the item of the executor that this future belongs to. Its call stack continues the chain.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

from otel_fastperf.awaiting.naming import name_of_c_call, name_of_call, name_of_function
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.frames import innermost_application, is_own, site_of, with_slashes
from otel_fastperf.requests.awaits import Awaited

#: maximum number of frames of one thread, and of threads of one request
_MOST_FRAMES: Final = 200
_MOST_THREADS: Final = 64
#: a thread computes if it ran, or was ready to run, for this share of the time since the last sample
_COMPUTING: Final = 0.5

_ANYIO: Final = "run_sync_in_worker_thread"
_POOL_FILE: Final = "concurrent/futures/thread.py"
_POOL_FUNCTION: Final = "run"
#: trio's functions, in the task and in the thread, and their variable for the function to run
_TRIO_FILE: Final = "trio/_threads.py"
_TRIO_FUNCTION: Final = "sync_fn"
#: functions with which a thread returns a result to the event loop
_RETURNING: Final = frozenset({"call_soon_threadsafe", "set_result", "set_exception"})


class Threads:
    """The threads of the process at one moment, for one request. Make a new one for each sample."""

    def __init__(self, known: dict[int, tuple[float, float]]) -> None:
        """`known` holds the CPU time of the request's threads at its last sample, and is updated."""
        self._known = known
        #: whether a thread is seen for the first time, or is about to return: what it does only the next look can tell
        self.is_unclear: bool = False
        self._frames: dict[int, FrameType] | None = None

    def work_of(self, frames: Sequence[FrameType], leaf: object, site: CallSite | None) -> Awaited | None:
        """What the thread does that will complete the future `leaf`, which `frames` await; None if there is no thread.

        Args:
            frames: Those of the await chain below the application's.
            leaf: What the last of them awaits.
            site: The application's line.
        """
        thread = _anyio_thread(frames) or self._pool_thread(leaf) or self._trio_thread(frames)
        if thread is None:
            return None
        (runner, stack), share = self._stack(thread), self._running_share(thread)
        if runner is None or (stack and stack[0].f_code.co_name in _RETURNING) or (share is None and not stack):
            self.is_unclear = True
            return None
        if not stack:
            return Awaited(*name_of_function(_function_of(runner)), site, share is None or share >= _COMPUTING)
        index, _ = innermost_application(stack)
        below = stack if index is None else stack[index + 1 :]
        name = name_of_call(below) if below else name_of_c_call(stack[-1])
        # a thread that is inside of a lock's function waits, however little is known of its CPU time
        waits = name[0] == "threading" and name[1].endswith(".acquire")
        if share is None and not waits:
            self.is_unclear = True
            return None
        computing = not waits and ((share or 0.0) >= _COMPUTING or not (below or name[1]))
        return Awaited(*name, site if index is None else site_of(stack[index]), computing)

    def _stack(self, thread: int) -> tuple[FrameType | None, list[FrameType]]:
        """The frame that runs the request's function in a thread, and those below it, outermost first.

        There is no such frame between two items of work, or if the work is not a request's.
        """
        frames: list[FrameType] = []
        frame = self._current_frames().get(thread)
        while frame is not None and len(frames) < _MOST_FRAMES and not _runs_work(frame):
            frames.append(frame)
            frame = frame.f_back
        frames.reverse()
        return frame, frames

    def _pool_thread(self, leaf: object) -> int | None:
        """The thread of a `ThreadPoolExecutor` that works on what the future `leaf` waits for."""
        source = _source_of(leaf)
        if source is None:
            return None
        return self._thread_with(
            lambda frame: _is_pool(frame) and getattr(frame.f_locals.get("self"), "future", None) is source
        )

    def _trio_thread(self, frames: Sequence[FrameType]) -> int | None:
        """The thread in which trio runs the function that `frames` pass to it."""
        for frame in reversed(frames):
            if _is_trio(frame) and _TRIO_FUNCTION in frame.f_code.co_varnames:
                function = frame.f_locals[_TRIO_FUNCTION]
                return self._thread_with(
                    lambda other: _is_trio(other) and other.f_locals.get(_TRIO_FUNCTION) is function  # noqa: B023
                )
        return None

    def _thread_with(self, is_wanted: Callable[[FrameType], bool]) -> int | None:
        for thread, innermost in self._current_frames().items():
            frame: FrameType | None = innermost
            while frame is not None:
                if is_wanted(frame):
                    return thread
                frame = frame.f_back
        return None

    def _current_frames(self) -> dict[int, FrameType]:
        if self._frames is None:
            self._frames = sys._current_frames()  # noqa: SLF001 - there is no other way
            # without this one, which refers to `self`: a cycle would keep the frames until the collector runs
            self._frames.pop(threading.get_ident(), None)
        return self._frames

    def _running_share(self, thread: int) -> float | None:
        """How much of the time since the last sample it ran or was ready to; None if this is the first sample."""
        now, ran = time.perf_counter(), _ran(thread)
        before = self._known.get(thread)
        if len(self._known) < _MOST_THREADS:
            self._known[thread] = ran, now
        if before is None or now <= before[1]:
            return None
        return (ran - before[0]) / (now - before[1])


def _runs_work(frame: FrameType) -> bool:
    code = frame.f_code
    return is_own(code.co_filename) or _is_pool(frame) or _is_trio(frame)


def _is_trio(frame: FrameType) -> bool:
    return with_slashes(frame.f_code.co_filename).endswith(_TRIO_FILE)


def _is_pool(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == _POOL_FUNCTION and with_slashes(code.co_filename).endswith(_POOL_FILE)


def _function_of(runner: FrameType) -> object:
    """The function that a frame runs, ours or an executor's."""
    variables = runner.f_locals
    return variables.get("func") or variables.get(_TRIO_FUNCTION) or getattr(variables.get("self"), "fn", None)


def _anyio_thread(frames: Sequence[FrameType]) -> int | None:
    for frame in reversed(frames):
        if frame.f_code.co_name == _ANYIO:
            worker = frame.f_locals.get("worker")
            return getattr(worker, "ident", None)
    return None


def _source_of(future: Any) -> object:
    """The future of an executor that completes this one of asyncio's: `asyncio.wrap_future` links them."""
    for callback, _context in getattr(future, "_callbacks", None) or ():
        variables = getattr(getattr(callback, "__code__", None), "co_freevars", ())
        if "source" in variables:
            return callback.__closure__[variables.index("source")].cell_contents
    return None


def _ran(thread: int) -> float:
    """Seconds for which a thread ran or was ready to run, if the kernel tells the latter; 0 if it has ended."""
    native = next((each.native_id for each in threading.enumerate() if each.ident == thread), None)
    if native is None:
        return 0.0
    try:
        with open(f"/proc/self/task/{native}/schedstat", "rb") as file:  # noqa: PTH123 - a third of the time of a Path
            running, ready, _ = file.read().split()
        return (int(running) + int(ready)) / 1e9
    except (OSError, ValueError):
        return _ran_at_least(native)


def _ran_at_least(native: int) -> float:
    """Seconds of CPU time of a thread; 0 if it has ended.

    `time.pthread_getcpuclockid` crashes the process for a thread that has just ended. Linux makes the clock's id from
    that of the thread, and looks for the thread when the clock is read: MAKE_THREAD_CPUCLOCK in its posix-timers.h.
    macOS knows no such id, and Windows no such function: threads seem to wait there.
    """
    try:
        return time.clock_gettime(~native << 3 | 0b110)
    except (OSError, AttributeError):
        return 0.0
