"""Finds the lines of the application that led to a running frame.

The walk goes from the frame outwards, and skips frames of the standard library, of installed packages and of this
package. It treats three things specially:

    greenlets       The walk continues in the parent. SQLAlchemy's async engines run statements in a greenlet, and the
                    coroutine that awaits them is in its parent, which no `f_back` leads to.
    the router      The walk ends: middleware outside of it awaits every request, whatever the request does.
    the event loop  The walk ends: code outside of it, such as `uvicorn.run(app)`, is not the reason for a callback.

If there is no application frame at all, the application may itself be an installed package: then it is the package that
the web framework called.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from types import FrameType
from typing import Final

from otel_fastperf.findings import CallSite

#: size of the cache for the origin of files; services have fewer files
_MOST_FILES: Final = 16_384

#: maximum number of nested wrappers; a mock has infinitely many
_MOST_WRAPPERS: Final = 10

#: packages that call the application; an installed application is what these call
_CALLERS: Final = ("fastapi", "starlette", "anyio", "uvicorn", "gunicorn", "hypercorn", "granian", "click", "typer")
#: packages that the application calls: never the application itself, wherever they are installed
_CALLED: Final = (
    "sqlalchemy",
    "sqlmodel",
    "greenlet",
    "uvloop",
    "asyncpg",
    "psycopg",
    "psycopg_pool",
    "psycopg2",
    "pg8000",
    "aiosqlite",
    "aiomysql",
    "asyncmy",
    "pymysql",
    "MySQLdb",
    "oracledb",
    "pyodbc",
    "aioodbc",
    "opentelemetry",
    "pydantic",
)
#: files of the code that calls endpoints
_ROUTER_FILES: Final = ("fastapi/routing.py", "starlette/routing.py")
#: functions that run the event loop, by end of the file name; uvloop's are written in C and have no frames
_LOOP_FILES: Final = ("asyncio/base_events.py", "asyncio/events.py", "asyncio/runners.py", "uvicorn/_compat.py")
_LOOP_FUNCTIONS: Final = frozenset({"_run", "_run_once", "run", "run_forever", "run_until_complete", "asyncio_run"})

#: the folder of this package as it appears in frames: symbolic links are not resolved
_OWN: Final = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
_INSTALLED_FOLDERS: Final = ("/site-packages/", "/dist-packages/")
#: before Python 3.12, comprehensions have their own frames
_COMPREHENSIONS: Final = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


class _Origin(Enum):
    """What a source file belongs to.

    Attributes:
        INSTALLED: An installed package, which may be the application.
        CALLER: A package that calls the application.
        ROUTER: The part of it that calls endpoints.
        LOOP: Code that may run the event loop.
        OTHER: Never of interest.
    """

    APPLICATION = auto()
    INSTALLED = auto()
    CALLER = auto()
    ROUTER = auto()
    LOOP = auto()
    OTHER = auto()


def call_site(frame: FrameType | None) -> CallSite | None:
    """The application's line nearest to `frame`; None if there are only libraries."""
    sites = application_frames(frame, 1)
    return sites[0] if sites else None


def application_frames(frame: FrameType | None, most: int) -> tuple[CallSite, ...]:
    """Up to `most` lines of the application, innermost first, from `frame` outwards; `frame` may be another thread's.

    Greenlets are followed only for frames of the calling thread, because those of other threads are unknown.
    """
    sites: list[CallSite] = []
    installed: list[FrameType] = []
    ended = False
    for each in _outwards(frame):
        origin = _origin(each.f_code.co_filename)
        if origin is _Origin.ROUTER or (origin is _Origin.LOOP and each.f_code.co_name in _LOOP_FUNCTIONS):
            break
        if origin is _Origin.APPLICATION:
            _add(sites, each)
            if len(sites) >= most:
                break
        elif origin is _Origin.CALLER:
            ended = ended or bool(installed)
        elif origin is _Origin.INSTALLED and not ended:
            installed.append(each)
    return tuple(sites) if sites or not installed else _installed_application(installed, most)


def is_application(filename: str) -> bool:
    """True unless the file belongs to Python, to an installed package or to this package."""
    return _origin(filename) is _Origin.APPLICATION


def definition(function: object) -> CallSite | None:
    """The first line of a function without its decorators' wrappers; None for objects without Python code."""
    for _ in range(_MOST_WRAPPERS):
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    return None if code is None else CallSite(code.co_filename, code.co_firstlineno, _function(code.co_qualname))


def _installed_application(frames: list[FrameType], most: int) -> tuple[CallSite, ...]:
    """Those of `frames` that are in the package that the framework called: the one of the outermost frame."""
    package = _package(frames[-1].f_code.co_filename)
    sites: list[CallSite] = []
    for frame in frames:
        if _package(frame.f_code.co_filename) == package:
            _add(sites, frame)
    return tuple(sites[:most])


def _add(sites: list[CallSite], frame: FrameType) -> None:
    code = frame.f_code
    site = CallSite(code.co_filename, frame.f_lineno or code.co_firstlineno, _function(code.co_qualname))
    # a comprehension and its function are one site
    if not sites or sites[-1] != site:
        sites.append(site)


def _function(qualname: str) -> str:
    """Turn `create_app.<locals>.Orders.list` into `Orders.list`; a comprehension into its function."""
    outer, _, name = qualname.rpartition(".<locals>.")
    while outer and name in _COMPREHENSIONS:
        outer, _, name = outer.rpartition(".<locals>.")
    return name


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """`frame` and its callers, then those in the parents of the current greenlet."""
    last = frame
    while frame is not None:
        yield frame
        last, frame = frame, frame.f_back
    greenlet = sys.modules.get("greenlet")
    if greenlet is None or last is not _outermost(sys._getframe()):  # noqa: SLF001 - there is no other way
        return
    parent = greenlet.getcurrent().parent
    while parent is not None:
        frame = parent.gr_frame
        while frame is not None:
            yield frame
            frame = frame.f_back
        parent = parent.parent


def _outermost(frame: FrameType) -> FrameType:
    while (outer := frame.f_back) is not None:
        frame = outer
    return frame


@lru_cache(_MOST_FILES)
def _origin(filename: str) -> _Origin:
    if filename.startswith("<") or is_own(filename):
        return _Origin.OTHER
    path = filename.replace("\\", "/")
    if _is_of(filename, _CALLERS):
        return _Origin.ROUTER if path.endswith(_ROUTER_FILES) else _loop_or(_Origin.CALLER, path)
    if _is_of(filename, _CALLED):
        return _Origin.OTHER
    if any(folder in path for folder in _INSTALLED_FOLDERS):
        return _Origin.INSTALLED
    if _is_of_python(filename):
        return _loop_or(_Origin.OTHER, path)
    return _Origin.APPLICATION


def _loop_or(origin: _Origin, path: str) -> _Origin:
    return _Origin.LOOP if path.endswith(_LOOP_FILES) else origin


def _is_of(filename: str, packages: tuple[str, ...]) -> bool:
    """True if the file belongs to one of `packages` as imported. Applications may have folders of the same name."""
    folders = (folder for name in packages for folder in getattr(sys.modules.get(name), "__path__", ()))
    return any(_inside(filename, folder) for folder in folders)


def is_own(filename: str) -> bool:
    """True if the file belongs to this package."""
    return _inside(filename, _OWN)


def _is_of_python(filename: str) -> bool:
    """True if the file belongs to the standard library, or is a command such as `bin/uvicorn`."""
    folders = {os.path.dirname(os.__file__)}  # noqa: PTH120
    folders.update(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "scripts"))
    return any(_inside(filename, folder) for folder in folders)


def _inside(filename: str, folder: str) -> bool:
    return filename.startswith(folder) and filename[len(folder) : len(folder) + 1] in {"/", "\\"}


def _package(filename: str) -> str:
    """Turn `…/site-packages/shop/orders.py` into `shop`."""
    path = filename.replace("\\", "/")
    for folder in _INSTALLED_FOLDERS:
        path = path.rpartition(folder)[2]
    return path.partition("/")[0]
