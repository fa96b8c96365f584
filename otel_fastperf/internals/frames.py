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

import linecache
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from functools import lru_cache
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import FrameType
from typing import Final

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.lines import line_of

#: size of the cache for the origin of files; services have fewer files
_MOST_FILES: Final = 16_384

#: maximum number of nested wrappers; a mock has infinitely many
_MOST_WRAPPERS: Final = 10

#: size of the cache for the lines of definitions, and the maximum number of lines of their decorators
_MOST_DEFINITIONS: Final = 1024
_MOST_DECORATOR_LINES: Final = 100

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
    "httpx",
    "httpx2",
    "httpcore",
    "aiohttp",
    "requests",
    "urllib3",
    "redis",
    "pymongo",
    "motor",
    "grpc",
    "boto3",
    "botocore",
    "aiobotocore",
    "celery",
    "kombu",
    "wrapt",
    "opentelemetry",
)
#: packages with which the framework describes and validates models; what they call is not the application either
_MODELS: Final = ("pydantic", "pydantic_core", "typing_inspection", "typing_extensions", "annotated_types")
#: files of the code that calls endpoints
_ROUTER_FILES: Final = ("fastapi/routing.py", "starlette/routing.py")
#: the function of FastAPI that awaits an endpoint
_ENDPOINT_CALLER: Final = "run_endpoint_function"
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
        MODELS: A package of models, which the framework calls for its own work, such as `/openapi.json`.
        OTHER: Never of interest.
    """

    APPLICATION = auto()
    INSTALLED = auto()
    CALLER = auto()
    ROUTER = auto()
    LOOP = auto()
    MODELS = auto()
    OTHER = auto()


def call_site(frame: FrameType | None) -> CallSite | None:
    """The application's line nearest to `frame`; None if there are only libraries."""
    sites = application_frames(frame, 1)
    return sites[0] if sites else None


def application_frames(frame: FrameType | None, most: int, until: int = 0) -> tuple[CallSite, ...]:
    """Up to `most` lines of the application, innermost first, from `frame` outwards; `frame` may be another thread's.

    `until` is the `id` of a frame that ends the walk, such as the one that runs uvloop, which has no frames of its own.
    Greenlets are followed only for frames of the calling thread, because those of other threads are unknown.
    """
    sites: list[CallSite] = []
    installed: list[FrameType] = []
    ended = False
    for each in _outwards(frame):
        origin = _origin(each.f_code.co_filename)
        runs_loop = origin is _Origin.LOOP and each.f_code.co_name in _LOOP_FUNCTIONS
        if origin is _Origin.ROUTER or runs_loop or id(each) == until:
            break
        if origin is _Origin.APPLICATION:
            _add(sites, each)
            if len(sites) >= most:
                break
        elif origin is _Origin.CALLER:
            ended = ended or bool(installed)
        elif origin is _Origin.MODELS and not ended:
            installed.clear()
        elif origin is _Origin.INSTALLED and not ended:
            installed.append(each)
    return tuple(sites) if sites or not installed else _installed_application(installed, most)


def application_stack(frame: FrameType | None, *, alone: bool = False) -> tuple[list[FrameType], bool]:
    """The frames of the application from `frame` outwards, and whether the router was reached, which ends the walk.

    With `alone`, only `frame` itself is looked at, such as that of a coroutine which is suspended.
    """
    stack: list[FrameType] = []
    for each in _outwards(frame):
        origin = _origin(each.f_code.co_filename)
        if origin is _Origin.ROUTER:
            return stack, True
        if origin is _Origin.LOOP and each.f_code.co_name in _LOOP_FUNCTIONS:
            break
        if origin is _Origin.APPLICATION:
            stack.append(each)
        if alone:
            break
    return stack, False


def coroutine_of(frame: FrameType | None) -> tuple[CallSite, bool] | None:
    """The line of the application's coroutine nearest to `frame`, and whether the framework called it."""
    stack, _in_request = application_stack(frame)
    for number, each in enumerate(stack):
        if each.f_code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
            return site_of(each), number == len(stack) - 1
    return None


def site_of(frame: FrameType) -> CallSite:
    """The line that a frame is at; of a Jinja template its own line, not that of the code compiled from it."""
    code = frame.f_code
    template = frame.f_globals.get("__jinja_template__")
    if template is not None:
        return CallSite(code.co_filename, template.get_corresponding_lineno(frame.f_lineno), str(template.name))
    return CallSite(code.co_filename, line_of(frame), short_name(code.co_qualname))


def innermost_application(frames: Sequence[FrameType]) -> tuple[int | None, int | None]:
    """Where the application is in an await chain or a call stack: `frames`, outermost first.

    Returns:
        The index of its innermost frame, or None if there is none; and that of the router if it is further in.
    """
    installed: list[int] = []
    ended = False
    for index in range(len(frames) - 1, -1, -1):
        code = frames[index].f_code
        match _origin(code.co_filename):
            case _Origin.APPLICATION:
                return index, None
            case _Origin.ROUTER:
                # the endpoint itself, not a package that FastAPI calls for it
                called = code.co_name == _ENDPOINT_CALLER and installed[-1:] == [index + 1]
                return (_innermost_of_package(frames, installed) if called else None), index
            case _Origin.CALLER:
                ended = ended or bool(installed)
            case _Origin.MODELS if not ended:
                installed.clear()
            case _Origin.INSTALLED if not ended:
                installed.append(index)
    return None, None


def is_application(filename: str) -> bool:
    """True unless the file belongs to Python, to an installed package or to this package."""
    return _origin(filename) is _Origin.APPLICATION


def may_be_application(filename: str) -> bool:
    """True also for an installed package, unless it is a framework or a library of this package's list."""
    return _origin(filename) in {_Origin.APPLICATION, _Origin.INSTALLED}


def definition(function: object) -> CallSite | None:
    """The line of a function's `def`, without its decorators' wrappers; None for objects without Python code."""
    for _ in range(_MOST_WRAPPERS):
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
    code = getattr(function, "__code__", None) or getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    if code is None:
        return None
    line = _line_of_def(code.co_filename, code.co_firstlineno)
    return CallSite(code.co_filename, line, short_name(code.co_qualname))


@lru_cache(_MOST_DEFINITIONS)
def _line_of_def(filename: str, first: int) -> int:
    """The first line that is no decorator's: a function's code starts with its decorators."""
    if not linecache.getline(filename, first).lstrip().startswith("@"):
        return first
    for line in range(first + 1, first + _MOST_DECORATOR_LINES):
        if linecache.getline(filename, line).lstrip().startswith(("def ", "async def ", "class ")):
            return line
    return first


def _installed_application(frames: list[FrameType], most: int) -> tuple[CallSite, ...]:
    """Those of `frames` that are in the package that the framework called: the one of the outermost frame."""
    package = package_of(frames[-1].f_code.co_filename)
    sites: list[CallSite] = []
    for frame in frames:
        if package_of(frame.f_code.co_filename) == package:
            _add(sites, frame)
    return tuple(sites[:most])


def _innermost_of_package(frames: Sequence[FrameType], indexes: list[int]) -> int:
    """The first of `indexes`, innermost first, whose frame is in the package that the framework called."""
    package = package_of(frames[indexes[-1]].f_code.co_filename)
    return next(index for index in indexes if package_of(frames[index].f_code.co_filename) == package)


def _add(sites: list[CallSite], frame: FrameType) -> None:
    site = site_of(frame)
    # a comprehension and its function are one site
    if not sites or sites[-1] != site:
        sites.append(site)


def short_name(qualname: str) -> str:
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
    filename = _in_its_folder(filename)
    path = with_slashes(filename)
    if _is_of(filename, _CALLERS):
        return _Origin.ROUTER if path.endswith(_ROUTER_FILES) else _loop_or(_Origin.CALLER, path)
    if _is_of(filename, _MODELS):
        return _Origin.MODELS
    if _is_of(filename, _CALLED):
        return _Origin.OTHER
    if any(folder in path for folder in _INSTALLED_FOLDERS):
        return _Origin.INSTALLED
    return _loop_or(_Origin.OTHER, path) if _is_of_python(filename) else _Origin.APPLICATION


@lru_cache(_MOST_FILES)
def with_slashes(filename: str) -> str:
    """The path as on POSIX: on Windows, code has backslashes in its file name."""
    return filename.replace("\\", "/")


def _in_its_folder(filename: str) -> str:
    """Put the folder of its package before `uvloop/loop.pyx`: Cython compiles in a path that is relative to it."""
    package, separator, _ = filename.partition("/")
    for folder in getattr(sys.modules.get(package), "__path__", ()) if separator and package else ():
        if folder.endswith(package):
            return f"{folder.removesuffix(package)}{filename}"
    return filename


def _loop_or(origin: _Origin, path: str) -> _Origin:
    return _Origin.LOOP if path.endswith(_LOOP_FILES) else origin


def _is_of(filename: str, packages: tuple[str, ...]) -> bool:
    """True if the file belongs to one of `packages` as imported. Applications may have folders of the same name."""
    modules = [sys.modules.get(name) for name in packages]
    if any(filename == getattr(module, "__file__", None) for module in modules):
        return True  # a package may be a single file
    folders = (folder for module in modules for folder in getattr(module, "__path__", ()))
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


def package_of(filename: str) -> str:
    """Turn `…/site-packages/shop/orders.py` into `shop`."""
    path = with_slashes(filename)
    for folder in _INSTALLED_FOLDERS:
        path = path.rpartition(folder)[2]
    return path.partition("/")[0]
