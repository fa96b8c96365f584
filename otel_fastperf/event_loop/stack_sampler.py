"""A sample of the event loop's thread, taken by another thread: which request it serves, and at which line.

No reference to a frame, a task or a request's locals outlives the sample: dropping the last one would run destructors
in the wrong thread.
"""

import asyncio
import gc
import sys
import weakref
from contextvars import Context
from enum import StrEnum, auto
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import FrameType
from typing import Any, Final, NamedTuple

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.frames import application_frames, call_site, is_application, is_own, with_slashes
from otel_fastperf.requests.record import CURRENT, RequestRecord

#: maximum number of application frames in one sample
_MOST_FRAMES: Final = 10
#: maximum number of frames that are walked
_MOST_DEPTH: Final = 500

#: functions in which the framework works on parameters and on a return value, by end of the file name
_READING: Final = {
    "/fastapi/dependencies/utils.py": ("request_body_to_args", "_validate_value_with_model_field"),
    "/starlette/requests.py": ("json",),
}
_SERIALIZING: Final = {
    "/fastapi/routing.py": ("serialize_response", "_serialize_data", "_serialize_item", "_serialize_sse_item"),
    "/fastapi/encoders.py": ("jsonable_encoder",),
    "/starlette/responses.py": ("render",),
}
_IMPORTING: Final = "<frozen importlib._bootstrap"
_LOGGING: Final = ("logging", "logging.handlers")
_ENDPOINT_CALLER: Final = "/fastapi/routing.py"
_DEPENDENCY_CALLER: Final = "/fastapi/dependencies/utils.py"

_ASYNC: Final = CO_COROUTINE | CO_ASYNC_GENERATOR


class LoopWork(StrEnum):
    """What the loop's thread does, where that decides on the remedy."""

    #: the framework parses and validates a request
    READING = auto()
    #: the framework turns a return value into a response
    SERIALIZING = auto()
    #: modules are imported, by code or by a library, usually once
    IMPORTING = auto()
    #: a statement of SQLAlchemy is in the database driver
    IN_DATABASE = auto()
    #: a log handler writes
    LOGGING = auto()
    OTHER = auto()


class Coroutine(NamedTuple):
    """The innermost coroutine of the application.

    Attributes:
        site: The line that calls what blocks.
        caller: `endpoint` or `dependency` if FastAPI calls it; else "".
        awaits: True if this line awaits a library's coroutine, which blocks.
    """

    site: CallSite
    caller: str
    awaits: bool


class Sight(NamedTuple):
    """What the loop's thread is doing.

    Attributes:
        running: The loop runs: a thread is in `run_forever` or the like.
        idle: It waits for events, or is about to call their handlers.
        task: The running task; None for a callback without a task. The same object for the same task.
        record: The request that the task serves.
        frames: Lines of the application, innermost first.
        called: The line of the outermost function that a coroutine calls without awaiting, or else of the coroutine.
        coroutine: The coroutine that blocks the loop, if it is the application's.
        library: The function of a library that the innermost line of the application calls, such as `requests.api.get`;
            without such a line the innermost function. "" if it is written in C.
        work: What kind of work it is.
    """

    running: bool = True
    idle: bool = False
    task: "weakref.ref[asyncio.Task[Any]] | None" = None
    record: RequestRecord | None = None
    frames: tuple[CallSite, ...] = ()
    called: CallSite | None = None
    coroutine: Coroutine | None = None
    library: str = ""
    work: LoopWork = LoopWork.OTHER


def base_of(frame: FrameType | None) -> int:
    """The `base` of a loop, from the frame that calls a callback on it.

    That is the frame that runs the loop, if the loop has no frames of its own. asyncio has one for each callback. Its
    `id` would soon be that of any other frame, at which a walk would end.
    """
    return 0 if frame is None or _is_handle(frame) else id(frame)


def look(loop: asyncio.AbstractEventLoop, thread: int, base: int) -> Sight:
    """Sample the loop's thread. `base`: the `id` of the frame that runs a loop without frames of its own, or 0."""
    if not loop.is_running():
        return Sight(running=False)
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
    task = asyncio.current_task(loop)
    record = None if task is None else _record_of(task)
    reference = None if task is None else weakref.ref(task)
    if frame is None or (task is None and _is_idle(frame, base)):
        return Sight(idle=True, task=reference, record=record)
    frames = application_frames(frame, _MOST_FRAMES, base)
    chain = _chain(frame, base)
    return Sight(
        task=reference,
        record=record,
        frames=frames,
        called=_called(chain),
        coroutine=_coroutine(chain),
        library=_library(chain, blamed=bool(frames)),
        work=_work(chain, blamed=bool(frames)),
    )


def _record_of(task: "asyncio.Task[Any]") -> RequestRecord | None:
    get_context = getattr(task, "get_context", None)
    if get_context is not None:
        context = get_context()
    else:
        # before Python 3.12, only the garbage collector can see a task's context
        context = next((each for each in gc.get_referents(task) if isinstance(each, Context)), None)
    record = None if context is None else context.get(CURRENT)
    return None if record is None or record.is_over else record


def _chain(frame: FrameType, base: int) -> list[FrameType]:
    """`frame` and its callers, up to the event loop."""
    chain: list[FrameType] = []
    each: FrameType | None = frame
    while each is not None and len(chain) < _MOST_DEPTH and not _is_handle(each) and id(each) != base:
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


def _coroutine(chain: list[FrameType]) -> Coroutine | None:
    inner: FrameType | None = None
    for number, frame in enumerate(chain):
        if is_own(frame.f_code.co_filename):
            continue
        if is_application(frame.f_code.co_filename) and frame.f_code.co_flags & _ASYNC:
            site = call_site(frame)
            awaits = inner is not None and bool(inner.f_code.co_flags & _ASYNC)
            return None if site is None else Coroutine(site, _caller(chain[number + 1 :]), awaits)
        inner = frame
    return None


def _caller(outer: list[FrameType]) -> str:
    """Who calls a coroutine: FastAPI's router, its solver of dependencies, or something else."""
    filename = next((frame.f_code.co_filename for frame in outer if not is_own(frame.f_code.co_filename)), "")
    filename = with_slashes(filename)
    if filename.endswith(_ENDPOINT_CALLER):
        return "endpoint"
    return "dependency" if filename.endswith(_DEPENDENCY_CALLER) else ""


def _library(chain: list[FrameType], *, blamed: bool) -> str:
    called: FrameType | None = None
    for frame in chain:
        if is_application(frame.f_code.co_filename):
            break
        if called is None or blamed:
            called = frame
    return "" if called is None else f"{_module(called)}.{called.f_code.co_name}"


def _work(chain: list[FrameType], *, blamed: bool) -> LoopWork:
    in_application = False
    for frame in chain:
        filename, name = frame.f_code.co_filename, frame.f_code.co_name
        if filename.startswith(_IMPORTING):
            return LoopWork.IMPORTING
        if _module(frame) in _LOGGING:
            return LoopWork.LOGGING
        in_application = in_application or is_application(filename)
        filename = with_slashes(filename)
        if not in_application and "/sqlalchemy/" in filename:
            # not while it fetches or connects, or while SQLAlchemy computes
            return LoopWork.IN_DATABASE if name.startswith("do_execute") else LoopWork.OTHER
        if not blamed and any(filename.endswith(end) and name in names for end, names in _SERIALIZING.items()):
            return LoopWork.SERIALIZING
        if not blamed and any(filename.endswith(end) and name in names for end, names in _READING.items()):
            return LoopWork.READING
    return LoopWork.OTHER


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
