"""A sample of the event loop's thread, taken by another thread: which request it serves, and at which line.

No reference to a frame, a task or a request's locals outlives the sample: dropping the last one would run destructors
in the wrong thread.
"""

import asyncio
import gc
import sys
import weakref
from contextvars import Context
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import FrameType
from typing import Any, Final, NamedTuple

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.frames import application_frames, call_site, is_application
from otel_fastperf.requests.record import CURRENT, RequestRecord

#: maximum number of application frames in one sample
_MOST_FRAMES: Final = 10
#: maximum number of frames that are walked
_MOST_DEPTH: Final = 500

_ROUTERS: Final = ("/fastapi/routing.py", "/starlette/routing.py")

_ASYNC: Final = CO_COROUTINE | CO_ASYNC_GENERATOR


class Sight(NamedTuple):
    """What the loop's thread is doing.

    Attributes:
        running: The loop runs: a thread is in `run_forever` or the like.
        idle: It waits for events, or is about to call their handlers.
        task: The running task; None for a callback without a task. The same object for the same task.
        record: The request that the task serves.
        frames: Lines of the application, innermost first.
        called: The line of the outermost function that a coroutine calls without awaiting, or else of the coroutine.
        in_router: The router runs without an application line below it: it validates or serializes.
        in_database: A statement of SQLAlchemy is in the database driver.
    """

    running: bool = True
    idle: bool = False
    task: "weakref.ref[asyncio.Task[Any]] | None" = None
    record: RequestRecord | None = None
    frames: tuple[CallSite, ...] = ()
    called: CallSite | None = None
    in_router: bool = False
    in_database: bool = False


def look(loop: asyncio.AbstractEventLoop, thread: int, base: int) -> Sight:
    """Sample the loop's thread. `base` is the `id` of the frame that runs an event loop that has no frames itself."""
    if not loop.is_running():
        return Sight(running=False)
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
    task = asyncio.current_task(loop)
    record = None if task is None else _record_of(task)
    reference = None if task is None else weakref.ref(task)
    if frame is None or (task is None and _is_idle(frame, base)):
        return Sight(idle=True, task=reference, record=record)
    frames = application_frames(frame, _MOST_FRAMES)
    chain = _chain(frame)
    return Sight(
        task=reference,
        record=record,
        frames=frames,
        called=_called(chain),
        in_router=not frames and any(each.f_code.co_filename.endswith(_ROUTERS) for each in chain),
        in_database=_is_in_database(chain),
    )


def _record_of(task: "asyncio.Task[Any]") -> RequestRecord | None:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context = get_context()
    else:
        # before Python 3.12, only the garbage collector can see a task's context
        context = next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
    return None if context is None else context.get(CURRENT)


def _chain(frame: FrameType) -> list[FrameType]:
    """`frame` and its callers, up to the event loop."""
    chain: list[FrameType] = []
    each: FrameType | None = frame
    while each is not None and len(chain) < _MOST_DEPTH and not _is_handle(each):
        chain.append(each)
        each = each.f_back
    return chain


def _is_idle(frame: FrameType, base: int) -> bool:
    """Whether the loop's thread runs no callback. asyncio runs them in `Handle._run`; uvloop leaves no frame."""
    each: FrameType | None = frame
    depth = 0
    while each is not None and depth < _MOST_DEPTH:
        if _is_handle(each):
            return False
        if each.f_code.co_name == "_run_once" and each.f_code.co_filename.endswith("base_events.py"):
            return True
        if id(each) == base:
            return depth == 0
        each = each.f_back
        depth += 1
    return False


def _is_handle(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_run" and frame.f_code.co_filename.endswith("events.py")


def _called(chain: list[FrameType]) -> CallSite | None:
    ours = None
    for frame in chain:
        is_async = bool(frame.f_code.co_flags & _ASYNC)
        if is_application(frame.f_code.co_filename) and not (is_async and ours is not None):
            ours = frame
        if is_async:
            break
    return call_site(ours)


def _is_in_database(chain: list[FrameType]) -> bool:
    """True while a driver executes a statement; not while it fetches or connects, or while SQLAlchemy computes."""
    for frame in chain:
        if "/sqlalchemy/" in frame.f_code.co_filename:
            return frame.f_code.co_name.startswith("do_execute")
        if is_application(frame.f_code.co_filename):
            return False
    return False
