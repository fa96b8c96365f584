"""The name of what the application calls: a library and its function, such as `httpx` and `AsyncClient.get`."""

import ast
import os
import sysconfig
from collections.abc import Sequence
from contextvars import Context
from dis import opname
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from otel_fastperf.internals.frames import is_application, is_own, package_of, short_name

#: sizes of the caches: functions, and places in the bytecode
_MOST_FUNCTIONS: Final = 4096
_MOST_PLACES: Final = 1024
#: maximum number of nested `functools.partial`
_MOST_WRAPPERS: Final = 4

#: packages whose frames only pass a call on
_WRAPPERS: Final = frozenset(
    {
        *("contextlib", "functools", "wrapt", "async_timeout", "opentelemetry"),
        *("sentry_sdk", "ddtrace", "newrelic", "elasticapm", "logfire", "logfire_api"),
    }
)
#: instructions that enter the block of a `with`; CALL since Python 3.14
_ENTERING: Final = frozenset({"BEFORE_WITH", "CALL"})
#: the iterator of tasks, which awaits in a function of its own
_AS_COMPLETED: Final = "as_completed"
#: functions that await what the application passes to them
_PASSING_ON: Final = frozenset(
    {"wait_for", "wait", "_wait", "shield", "gather", "wrap", "_run_coro", "_run_wrapped_task"}
)
_CONCURRENCY: Final = frozenset({"asyncio", "anyio", "trio", "starlette"})

Name = tuple[str, str]


def name_of_call(frames: Sequence[FrameType]) -> Name:
    """Library and function of the first of `frames` that is more than a wrapper. They go from the call inwards."""
    for frame in frames:
        code = frame.f_code
        library, function, passes_on = _function(code.co_filename, code.co_qualname, code.co_name)
        if not passes_on:
            return library, function
    if not frames:
        return "", ""
    code = frames[0].f_code
    return _function(code.co_filename, code.co_qualname, code.co_name)[:2]


def name_of_awaitable(awaitable: object) -> Name:
    """Library and type of an awaitable without a frame, such as a future; `("", "")` for None."""
    if awaitable is None:
        return "", ""
    kind = type(awaitable)
    return kind.__module__.partition(".")[0].lstrip("_"), kind.__qualname__.lstrip("_")


def name_of_c_call(frame: FrameType) -> Name:
    """Library and function of the C function that `frame` calls, as its source names them; `("", "")` if unknown.

    Functions written in C have no frames, but the bytecode that calls them has a place in the source.
    """
    called, is_call = _called(frame.f_code, frame.f_lasti)
    lock = _lock(frame, called if not is_call else called.removesuffix(".acquire"))
    if lock or not is_call:
        return ("threading", f"{lock}.acquire") if lock else ("", "")
    first, _, rest = called.partition(".")
    found = frame.f_globals.get(first) if called else None
    if found is None:
        return "", called
    if isinstance(found, ModuleType):
        return found.__name__.partition(".")[0], f"{found.__name__}.{rest}"
    module = getattr(found, "__module__", None)
    return (module.partition(".")[0].lstrip("_") if isinstance(module, str) else ""), called


def name_of_function(function: Any) -> Name:
    """`("time", "time.sleep")` of a function written in C, through the wrappers that pass it to a thread."""
    for _ in range(_MOST_WRAPPERS):
        inner = getattr(function, "func", None)
        if inner is None:
            break
        # `asyncio.to_thread` passes the function to the `run` of its context
        is_context = isinstance(getattr(inner, "__self__", None), Context)
        function = function.args[0] if is_context and function.args else inner
    module = str(getattr(function, "__module__", None) or "").lstrip("_")
    return module.partition(".")[0], f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


@lru_cache(_MOST_FUNCTIONS)
def _function(filename: str, qualname: str, name: str) -> tuple[str, str, bool]:
    library = "" if is_application(filename) else _library(filename)
    passes_on = (
        is_own(filename)
        or library in _WRAPPERS
        or (name.startswith("__") and name.endswith("__"))
        or (library in _CONCURRENCY and name in _PASSING_ON)
    )
    function = _AS_COMPLETED if name == "_wait_for_one" and library == "asyncio" else short_name(qualname)
    return library, function, passes_on


def _library(filename: str) -> str:
    """`httpx` of `…/site-packages/httpx/_client.py`, `asyncio` of `…/lib/python3.11/asyncio/tasks.py`."""
    path = filename.replace("\\", "/")
    for folder in _standard_library():
        if path.startswith(f"{folder}/") and "-packages/" not in path:
            path = path[len(folder) + 1 :]
            break
    else:
        path = package_of(path)
    return path.partition("/")[0].removesuffix(".py")


@lru_cache(1)
def _standard_library() -> tuple[str, ...]:
    folders = (os.path.dirname(os.__file__), sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))  # noqa: PTH120
    return tuple(dict.fromkeys(folder.replace("\\", "/") for folder in folders))


def _lock(frame: FrameType, name: str) -> str:
    """`Lock` or `RLock` if the object of this dotted name is one of the standard library's; `""` otherwise."""
    first, *rest = name.split(".")
    # before Python 3.13 this is a copy, which is not written back but keeps its values until the function returns
    found = frame.f_locals.get(first, frame.f_globals.get(first))
    for each in rest:
        # without `getattr`, which may run code of the application
        found = getattr(found, "__dict__", {}).get(each, getattr(type(found), "__dict__", {}).get(each))
    kind = type(found)
    return kind.__name__.replace("lock", "Lock") if kind.__module__ == "_thread" and "ock" in kind.__name__ else ""


@lru_cache(_MOST_PLACES)
def _called(code: CodeType, place: int) -> tuple[str, bool]:
    """`("hashlib.pbkdf2_hmac", True)` of the call at `place` in the bytecode, `("self.lock", False)` of a `with` block.

    `("", True)` if it is neither, or if there is no source.
    """
    positions = next(islice(code.co_positions(), place // 2, None), (None,) * 4)
    first, last, start, end = positions
    if first is None or last is None or start is None or end is None:
        return "", True
    try:
        with open(code.co_filename, "rb") as source:  # noqa: PTH123 - a path as Python reports it
            lines = list(islice(source, first - 1, last))
        lines[-1] = lines[-1][:end]
        lines[0] = lines[0][start:]
        text = b"".join(lines)
        entered = opname[code.co_code[place]] in _ENTERING
        called = _expression(text, entered=entered)
    except (OSError, ValueError, SyntaxError, IndexError):
        return "", True
    if isinstance(called, ast.Call):
        return _dotted(called.func), True
    return (_dotted(called), False) if entered and called is not None else ("", True)


def _expression(text: bytes, *, entered: bool) -> ast.expr | None:
    """The expression that is called, or the object whose block is entered: Python 3.11 marks the whole statement."""
    if entered and text.startswith(b"with"):
        statement = ast.parse(text).body[0]
        items = statement.items if isinstance(statement, ast.With) else ()
        return items[0].context_expr if len(items) == 1 else None
    return ast.parse(b"(" + text + b")", mode="eval").body


def _dotted(function: ast.expr) -> str:
    match function:
        case ast.Name(name):
            return name
        case ast.Attribute(value, name):
            outer = _dotted(value)
            return f"{outer}.{name}" if outer else name
        case _:
            return ""
