"""Walks from the coroutine of a request to what it awaits: the application's innermost line, and a library's function.

A suspended coroutine knows what it awaits (`cr_await`), and so do generators and asynchronous generators. The walk goes
down this chain. Where it ends at tasks (`gather`, a task group, `shield`, `wait_for`), it goes on in each of them, and
where it ends at a thread, in the thread's call stack. No library is patched.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

from otel_fastperf.awaiting.naming import Name, name_of_awaitable, name_of_call
from otel_fastperf.awaiting.threads import Threads
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.frames import innermost_application, is_own, site_of
from otel_fastperf.requests.awaits import Awaited

#: maximum number of frames in one chain, of tasks that one await is followed into, and of nested followings
_MOST_FRAMES: Final = 200
_MOST_TASKS: Final = 16
_MOST_NESTED: Final = 8

#: types that hide the awaitable which they wrap; only the garbage collector can see it
_WRAPPING: Final = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper", "FutureIter"}
)
#: the generator of ours around the coroutine of a request
_DRIVING: Final = "driving"
#: names of variables that hold a task group
_GROUPS: Final = frozenset({"task_group", "tg", "group", "nursery"})
#: names that a function uses which has one
_GROUP_NAMES: Final = frozenset(
    {"start_soon", "create_task", "create_task_group", "create_collapsing_task_group", "TaskGroup", "open_nursery"}
)
#: functions that wait for all tasks of the group that is their `self`
_JOINING: Final = frozenset({"__aexit__", "_aexit", "_nested_child_finished"})


def awaited_by(awaitable: object, threads: Threads) -> tuple[tuple[Awaited, ...], bool]:
    """What `awaitable`, which is suspended, awaits: one thing, or one for each task that it waits for.

    Empty if that is not clear: it is about to go on, or see `Threads.is_unclear`. The second value is True if it awaits
    the same since it was suspended, False if other tasks or threads may have gone on meanwhile.
    """
    walk = _Walk(threads)
    found = tuple(walk.follow(awaitable, None, ("", ""), _MOST_NESTED))
    return () if walk.is_ready or threads.is_unclear else found, not walk.is_elsewhere


class _Walk:
    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._met: set[int] = set()
        #: whether what other tasks or threads do was looked at, which may change while the request is suspended
        self.is_elsewhere: bool = False
        #: whether what is awaited has happened already
        self.is_ready: bool = False
        #: whether the router was met, so that what was found is what the router does
        self._is_routed = False

    def follow(self, awaitable: object, site: CallSite | None, name: Name, depth: int) -> Iterator[Awaited]:
        """What `awaitable` awaits. `site` and `name` are the caller's: its line, and what it calls there."""
        if not depth or id(awaitable) in self._met:
            return
        self._met.add(id(awaitable))
        frames, leaf = _descended(awaitable)
        if _is_ready(frames, leaf):
            self.is_ready = True
            return
        index, router = innermost_application(frames)
        if index is not None:
            site, name = site_of(frames[index]), ("", "")
        elif router is not None:
            # what is outside of the router awaits every request, whatever that does
            site, name, index = None, ("", ""), router
            self._is_routed = True
        called = frames if index is None else frames[index + 1 :]
        yield from self._at_end(called, leaf, site, _first(name_of_call(called), name), depth)

    def _at_end(
        self, frames: Sequence[FrameType], leaf: object, site: CallSite | None, name: Name, depth: int
    ) -> Iterator[Awaited]:
        """What the end of a chain awaits: `leaf`, by the functions of `frames`, which are below the application's."""
        waited = _tasks_of(leaf) or _tasks_of_frames(frames)
        tasks = tuple(_unfinished(waited))
        if waited and not tasks:
            self.is_ready = True
            return
        if tasks:
            self.is_elsewhere = True
            for task in tasks:
                yield from self.follow(task, site, name, depth - 1)
            return
        beside = list(self._beside(frames, depth))
        if beside:
            yield from beside
            return
        work = self._threads.work_of(frames, leaf, site)
        if work is not None:
            self.is_elsewhere = True
            yield work
        elif site is not None or frames or leaf is not None:
            yield Awaited(*_first(name, name_of_awaitable(leaf)), site)

    def _beside(self, frames: Sequence[FrameType], depth: int) -> Iterator[Awaited]:
        """What the tasks await that a library runs beside this one, if they run code of the application or the router.

        Starlette's `BaseHTTPMiddleware` runs the inner app so, and a `StreamingResponse` its iterator.
        """
        for frame in reversed(frames):
            for variable in _group_variables(frame.f_code):
                for child in _unfinished(_tasks_of_group(frame.f_locals.get(variable))):
                    found = list(self._beside_in(child, depth))
                    if found:
                        yield from found
                        return

    def _beside_in(self, child: object, depth: int) -> Iterator[Awaited]:
        was_routed, self._is_routed = self._is_routed, False
        self.is_elsewhere = True
        found = list(self.follow(child, None, ("", ""), depth - 1))
        if self._is_routed or any(each.call_site for each in found):
            yield from found
        self._is_routed = self._is_routed or was_routed


def _first(name: Name, other: Name) -> Name:
    return name if name[1] else other


def _descended(awaitable: object) -> tuple[list[FrameType], object]:
    """The frames of the await chain, outermost first, and the awaitable without a frame at its end, if there is one."""
    frames: list[FrameType] = []
    each: Any = awaitable
    while each is not None and len(frames) < _MOST_FRAMES:
        frame, following = _step(each)
        if frame is None and following is None:
            return frames, each
        if frame is not None:
            frames.append(frame)
            if frame.f_code.co_name == "greenlet_spawn":
                frames += _in_greenlet(frame)
        each = following
    return frames, None


def _is_ready(frames: Sequence[FrameType], leaf: Any) -> bool:
    """Whether the event loop is about to go on here: the future is done, or a task just let others run.

    A future that waits for others is done in the loop's next round after them.
    """
    if leaf is None:
        return bool(frames) and frames[-1].f_code.co_name == "__sleep0"
    waited = _futures_behind(leaf)
    return _is_done(leaf) or (bool(waited) and all(map(_is_done, waited)))


def _is_done(future: Any) -> bool:
    return hasattr(future, "done") and callable(future.done) and bool(future.done())


def _step(each: Any) -> tuple[FrameType | None, object]:
    """The frame of an awaitable, and what it awaits."""
    kind = type(each)
    if kind is CoroutineType:
        return each.cr_frame, each.cr_await
    if kind is GeneratorType:
        return each.gi_frame, each.gi_yieldfrom or _driven_by(each.gi_frame)
    if kind is AsyncGeneratorType:
        return each.ag_frame, each.ag_await
    if kind.__name__ in _WRAPPING:
        return None, next((inner for inner in gc.get_referents(each) if _is_awaitable(inner)), None)
    # coroutines that Cython compiled
    return getattr(each, "cr_frame", None), getattr(each, "cr_await", None)


def _driven_by(frame: FrameType | None) -> object:
    """The coroutine inside of the generator that notes its suspensions, and so hides it."""
    if frame is None or frame.f_code.co_name != _DRIVING or not is_own(frame.f_code.co_filename):
        return None
    return frame.f_locals.get("awaitable")


def _is_awaitable(candidate: object) -> bool:
    return hasattr(candidate, "__await__") or isinstance(candidate, AsyncGeneratorType | GeneratorType)


def _in_greenlet(frame: FrameType) -> list[FrameType]:
    """The frames of the greenlet in which SQLAlchemy runs synchronous code that awaits, outermost first."""
    inner = getattr(frame.f_locals.get("context"), "gr_frame", None)
    frames: list[FrameType] = []
    while inner is not None and len(frames) < _MOST_FRAMES:
        frames.append(inner)
        inner = inner.f_back
    frames.reverse()
    return frames


def _unfinished(tasks: Iterable[Any]) -> Iterator[object]:
    """The coroutines of the first few tasks that still run."""
    running = 0
    for task in tuple(tasks):
        get = getattr(task, "get_coro", None)
        coroutine = getattr(task, "coro", None) if get is None else get()
        if coroutine is not None and not (get is not None and task.done()):
            yield coroutine
            running += 1
            if running >= _MOST_TASKS:
                return


def _tasks_of(leaf: Any) -> Sequence[Any]:
    """The tasks behind a future that is awaited: itself, those of `gather`, that of `shield`."""
    if hasattr(leaf, "get_coro"):
        return (leaf,)
    running = (each for each in _futures_behind(leaf) if not _is_done(each))
    return tuple(task for each in islice(running, _MOST_TASKS) for task in _tasks_of(each))


def _futures_behind(leaf: Any) -> Sequence[Any]:
    """The futures that the one of `gather` or `shield` waits for."""
    children = getattr(leaf, "_children", None)
    if isinstance(children, list):
        return children
    for function in callbacks_of(leaf):
        if "inner" in function.__code__.co_freevars and function.__qualname__.startswith("shield."):
            return (_closed_over(function, "inner"),)
    return ()


def callbacks_of(future: object) -> Iterator[Any]:
    """The functions in Python that are called when a future is done."""
    for callback, _context in getattr(future, "_callbacks", None) or ():
        if getattr(callback, "__closure__", None) is not None:
            yield callback


def _closed_over(function: Any, name: str) -> object:
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


def _tasks_of_frames(frames: Sequence[FrameType]) -> Sequence[Any]:
    """The tasks for which the innermost function waits, if it is one of asyncio's, anyio's or trio's that waits so."""
    if not frames:
        return ()
    frame, name = frames[-1], frames[-1].f_code.co_name
    if name == "wait_for" and "fut" in frame.f_code.co_varnames:
        return _tasks_of(frame.f_locals.get("fut"))
    if name == "_wait" and "fs" in frame.f_code.co_varnames:
        return [task for each in frame.f_locals.get("fs", ()) for task in _tasks_of(each)]
    for outer in reversed(frames[-4:]):
        if outer.f_code.co_name in _JOINING and "self" in outer.f_code.co_varnames:
            tasks = _tasks_of_group(outer.f_locals.get("self"))
            if tasks:
                return tasks
    return ()


def _group_variables(code: CodeType) -> tuple[str, ...]:
    # most functions have no group, and their variables' names would have to be put together
    if _GROUP_NAMES.isdisjoint(code.co_names):
        return ()
    names = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
    return tuple(name for name in names if name in _GROUPS)


def _tasks_of_group(group: Any) -> Sequence[Any]:
    nursery = getattr(group, "_nursery", group)
    tasks = getattr(nursery, "child_tasks", None) or getattr(group, "_tasks", None)
    return tuple(tasks) if isinstance(tasks, set | frozenset | list) else ()
