"""Finds the loop that calls a running frame again and again: `for order_id in ids: repository.get(order_id)`.

The line that runs a statement is often one of a repository, which every caller shares. The line to change is that of
the loop. It is known from one look at the stack: the innermost application frame whose current instruction can be
reached again from itself by a backward jump. Jumps after an exception do not count, and neither does code that returns:
so a loop of attempts that ends with the first success is none.

A task that was started for one item has no loop on its stack. The line that awaits it is found through its callbacks:
those of `asyncio.gather`, `asyncio.wait`, `asyncio.as_completed` and `asyncio.TaskGroup` lead to the task that waits.
"""

import asyncio
import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.frames import application_stack, is_own, site_of

#: positions whose answer is remembered
_MOST_POSITIONS: Final = 1024
#: most awaitables from a task down to what it waits for
_DEEPEST: Final = 200
#: name of that generator
_DRIVING: Final = "driving"
_ENDS: Final = frozenset(
    {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_ABSOLUTE", "INTERPRETER_EXIT"}
)
_JUMPS: Final = frozenset((*dis.hasjrel, *dis.hasjabs))


def loop_around(frame: FrameType | None) -> CallSite | None:
    """The application's line that repeats what `frame` does, by a loop or by parallel tasks; None if none is seen."""
    stack, in_request = application_stack(frame)
    for each in stack:
        if is_repeated(each.f_code, each.f_lasti):
            return site_of(each)
    return None if in_request else _awaiting_line()


@lru_cache(_MOST_POSITIONS)
def is_repeated(code: CodeType, position: int) -> bool:
    """True if the instruction at this position can run again without an exception before the code returns."""
    following, backward = _flow(code)
    # a call that the interpreter runs without a C function leaves the position in the cache behind its instruction
    here = max((offset for offset in following if offset <= position), default=0)
    reached = _reached(here, following)
    return any(start in reached and here in _reached(target, following) for start, target in backward)


def _flow(code: CodeType) -> tuple[dict[int, tuple[int, ...]], list[tuple[int, int]]]:
    """The offsets that may follow each offset, and the jumps of loops."""
    following: dict[int, tuple[int, ...]] = {}
    backward: list[tuple[int, int]] = []
    instructions = list(dis.get_instructions(code))
    for instruction, after in zip(instructions, [*instructions[1:], None], strict=True):
        name, offset = instruction.opname, instruction.offset
        to: list[int] = []
        if instruction.opcode in _JUMPS:
            to.append(instruction.argval)
            # an `await` jumps back to itself, by an instruction of its own
            if "BACKWARD" in name and "NO_INTERRUPT" not in name:
                backward.append((offset, instruction.argval))
        goes_on = name not in _ENDS and not name.startswith("JUMP_BACKWARD")
        if goes_on and after is not None:
            to.append(after.offset)
        following[offset] = tuple(to)
    return following, backward


def _reached(start: int, following: dict[int, tuple[int, ...]]) -> set[int]:
    reached, ahead = {start}, [start]
    while ahead:
        for offset in following.get(ahead.pop(), ()):
            if offset not in reached:
                reached.add(offset)
                ahead.append(offset)
    return reached


def _awaiting_line() -> CallSite | None:
    """The line of the application that awaits the current task, among others."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no asyncio event loop runs in this thread
        return None
    waiting = None if task is None else next(_waiting_for(task), None)
    if waiting is None:
        return None
    site, awaited = None, waiting.get_coro()
    for _ in range(_DEEPEST):
        frame = _attribute(awaited, "cr_frame", "gi_frame", "ag_frame")
        if isinstance(frame, FrameType):
            stack, _in_request = application_stack(frame, alone=True)
            site = site_of(stack[0]) if stack else site
        awaited = _attribute(awaited, "cr_await", "gi_yieldfrom", "ag_await") or _driven_by(frame)
        if awaited is None:
            break
    return site


def _driven_by(frame: Any) -> Any:
    """The coroutine of a request, which the generator of ours that notes its suspensions hides."""
    driving = isinstance(frame, FrameType) and frame.f_code.co_name == _DRIVING and is_own(frame.f_code.co_filename)
    return frame.f_locals.get("awaitable") if driving else None


def _attribute(awaited: Any, *names: str) -> Any:
    return next((found for name in names if (found := getattr(awaited, name, None)) is not None), None)


def _waiting_for(future: Any) -> Iterator["asyncio.Task[Any]"]:
    """The tasks that wait for a task through one future, or as its task group."""
    for callback, _context in getattr(future, "_callbacks", None) or ():
        group = getattr(getattr(callback, "__self__", None), "_parent_task", None)
        if isinstance(group, asyncio.Task):
            yield group
        for cell in getattr(callback, "__closure__", None) or ():
            try:
                outer = cell.cell_contents
            except ValueError:  # empty
                continue
            if isinstance(outer, asyncio.Future) and not isinstance(outer, asyncio.Task):
                for wakeup, _ in getattr(outer, "_callbacks", None) or ():
                    woken = getattr(wakeup, "__self__", None)
                    if isinstance(woken, asyncio.Task):
                        yield woken
