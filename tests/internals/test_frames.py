"""The application's lines behind a frame: which frames are skipped, which gaps are crossed, where the walk ends."""

import asyncio
import functools
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_fastperf.findings import CallSite
from otel_fastperf.internals import frames as stack
from otel_fastperf.internals.frames import application_frames, call_site

HERE = str(Path(__file__))


def here(most: int = 1) -> tuple[CallSite, ...]:
    return application_frames(sys._getframe(1), most)


def defined(filename: str, source: str, **names: Any) -> dict[str, Any]:
    """The names of a module that pretends to be at `filename`."""
    code = compile(source, filename, "exec")
    namespace = {"__name__": "made_up", **names}
    exec(code, namespace)
    return namespace


#: names that a made-up module needs to inspect its own frames
FINDERS: dict[str, Any] = {"frames": application_frames, "getframe": sys._getframe}


def sites_of(*filenames: str) -> list[str]:
    """The files found if a function in each of these calls the next; the first is the outermost."""
    source = "def call(functions, find):\n    return functions[0](functions[1:], find) if functions else find()\n"
    functions = [defined(filename, source)["call"] for filename in filenames]
    results: list[tuple[CallSite, ...]] = []
    # in a new thread, from functions that look like the package's, so that no file of the tests is in between
    find = defined(stack.__file__, "def find():\n    return frames(getframe(), 99)\n", **FINDERS)["find"]
    names = {"results": results, "first": functions[0], "rest": functions[1:], "find": find}
    run = defined(stack.__file__, "def run():\n    results.append(first(rest, find))\n", **names)["run"]
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return [site.file for site in results[0]]


def test_the_running_line_of_the_application_is_found() -> None:
    (site,) = here()
    assert (site.file, site.function) == (HERE, "test_the_running_line_of_the_application_is_found")
    assert "here()" in Path(site.file).read_text().splitlines()[site.line - 1]


def test_frames_are_innermost_first_and_limited_in_number() -> None:
    def inner() -> tuple[CallSite, ...]:
        return here(2)

    def outer() -> tuple[CallSite, ...]:
        return inner()

    assert [site.function for site in outer()] == ["inner", "outer"]


def test_a_comprehension_is_no_second_frame_of_its_function() -> None:
    """Before Python 3.12 a comprehension has its own frame."""

    def inner() -> tuple[CallSite, ...]:
        found = [here(2) for _ in range(1)]
        return found[0]

    def outer() -> tuple[CallSite, ...]:
        return inner()

    assert [site.function for site in outer()] == ["inner", "outer"]


def test_a_method_is_named_with_its_class() -> None:
    class Orders:
        def total(self) -> tuple[CallSite, ...]:
            return here()

    assert Orders().total()[0].function == "Orders.total"


@pytest.mark.parametrize(
    "passed_over",
    [
        stack.__file__,
        f"{Path(threading.__file__).parent}/json/decoder.py",
        "/srv/shop/.venv/lib/python3.12/site-packages/requests/api.py",
        "/usr/lib/python3/dist-packages/requests/api.py",
        r"C:\shop\venv\Lib\site-packages\requests\api.py",
        str(Path(sys.prefix) / "bin" / "uvicorn"),
        sys.modules["sqlalchemy"].__file__ or "",
        "<string>",
        "<frozen importlib._bootstrap>",
    ],
)
def test_frames_outside_of_the_application_are_skipped(passed_over: str) -> None:
    assert sites_of("/srv/shop/orders.py", passed_over) == ["/srv/shop/orders.py"]


@pytest.mark.parametrize(
    "own",
    ["/srv/shop/orders.py", "/srv/fastapi/main.py", "/srv/sqlalchemy/models.py", f"{sys.prefix}/app/orders.py"],
)
def test_a_project_that_contains_its_venv_or_is_named_like_a_library_is_the_application(own: str) -> None:
    assert sites_of(own) == [own]


@pytest.mark.parametrize(("folder", "is_own"), [("/srv", True), ("/srv/.venv/lib/python3.12/site-packages", False)])
def test_a_module_that_cython_compiled_belongs_to_its_package(
    folder: str, *, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path that Cython compiles in is relative to the folder of the package."""
    package = types.ModuleType("compiled_pricing")
    package.__path__ = [f"{folder}/compiled_pricing"]
    monkeypatch.setitem(sys.modules, "compiled_pricing", package)
    monkeypatch.setattr(stack, "_origin", stack._origin.__wrapped__)
    found = sites_of("/srv/shop/orders.py", "compiled_pricing/rates.pyx")
    assert found[0] == ("compiled_pricing/rates.pyx" if is_own else "/srv/shop/orders.py")


SITE = "/usr/lib/python3.12/site-packages"


def test_an_installed_application_is_the_package_that_the_framework_called() -> None:
    fastapi, sqlalchemy = (sys.modules[name].__file__ or "" for name in ("fastapi", "sqlalchemy"))
    files = (
        f"{SITE}/asgi_correlation_id/middleware.py",
        fastapi,
        f"{SITE}/shop/routes.py",
        f"{SITE}/shop/orders.py",
        f"{SITE}/some_repository/base.py",
        sqlalchemy,
    )
    assert sites_of(*files) == [f"{SITE}/shop/orders.py", f"{SITE}/shop/routes.py"]


@pytest.mark.parametrize("library", ["pydantic", "pydantic_core", "typing_inspection", "typing_extensions"])
def test_models_that_the_framework_validates_or_describes_are_not_the_application(library: str) -> None:
    files = (sys.modules["fastapi"].__file__ or "", pytest.importorskip(library).__file__ or "")
    assert sites_of(*files) == []


def test_what_models_call_is_not_the_application() -> None:
    """FastAPI describes all models at the first `/openapi.json`, and pydantic calls whatever their types need."""
    fastapi, pydantic = (sys.modules[name].__file__ or "" for name in ("fastapi", "pydantic"))
    assert sites_of(fastapi, pydantic, f"{SITE}/email_validator/syntax.py") == []
    routes = f"{SITE}/shop/routes.py"
    assert sites_of(fastapi, routes, pydantic, f"{SITE}/email_validator/syntax.py") == [routes]
    assert sites_of(fastapi, pydantic, "/srv/shop/models.py") == ["/srv/shop/models.py"]


def test_middleware_that_waits_for_the_router_is_not_found() -> None:
    routing = sys.modules["fastapi.routing"].__file__ or ""
    sqlalchemy = sys.modules["sqlalchemy"].__file__ or ""
    assert sites_of("/srv/shop/middleware.py", routing, sqlalchemy) == []
    assert sites_of("/srv/shop/middleware.py", routing, "/srv/shop/orders.py", sqlalchemy) == ["/srv/shop/orders.py"]
    assert sites_of("/srv/shop/middleware.py", sqlalchemy) == ["/srv/shop/middleware.py"]


def _as_it_is(*_arguments: str) -> Callable[[Any], Any]:
    return lambda function: function


def test_a_definition_is_found_below_decorators() -> None:
    def endpoint() -> None:
        pass

    class Callable:
        def __call__(self) -> None:
            pass

    @functools.wraps(endpoint)
    def wrapper() -> None:
        endpoint()

    @_as_it_is()
    @_as_it_is(
        "on two lines",
    )
    async def decorated() -> None:
        pass

    wrapped = functools.partial(wrapper)
    for function in (endpoint, wrapped):
        site = stack.definition(function)
        assert site is not None
        assert (site.file, site.function) == (HERE, "endpoint")
    site = stack.definition(decorated)
    assert site is not None
    assert Path(site.file).read_text().splitlines()[site.line - 1].strip() == "async def decorated() -> None:"
    site = stack.definition(Callable())
    assert site is not None
    assert site.function == "Callable.__call__"
    assert stack.definition(None) is None
    assert stack.definition(len) is None


def test_there_is_no_line_if_only_libraries_run() -> None:
    assert sites_of(sys.modules["sqlalchemy"].__file__ or "") == []
    assert call_site(None) is None


def test_frames_outside_of_the_event_loop_are_not_found() -> None:
    async def serve() -> None:
        asyncio.get_running_loop().call_soon(found.append, 0)
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.01)

    found: list[Any] = []
    callback = defined(
        "/srv/shop/app.py",
        "def callback():\n    found.append(frames(getframe(), 99))\n",
        found=found,
        **FINDERS,
    )["callback"]
    asyncio.run(serve())
    assert [site.function for site in found[1]] == ["callback"]


def test_the_frame_of_another_thread_can_be_read() -> None:
    ready, done = threading.Event(), threading.Event()

    def work() -> None:
        ready.set()
        done.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    try:
        frame = sys._current_frames()[thread.ident or 0]
        site = call_site(frame)
    finally:
        done.set()
        thread.join()
    assert site is not None
    assert site.function == "work"


def test_the_coroutine_that_awaits_a_statement_is_found_across_the_greenlet() -> None:
    found: list[tuple[CallSite, ...]] = []

    async def repository(connection: Any) -> None:
        await connection.execute(text("select 1"))

    async def endpoint() -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        event.listen(engine.sync_engine, "before_cursor_execute", listener(found))
        async with engine.connect() as connection:
            await repository(connection)
        await engine.dispose()

    asyncio.run(endpoint())
    assert [site.function for site in found[0]] == ["repository", "endpoint"]


def test_a_sync_engine_leads_to_the_line_without_a_greenlet() -> None:
    found: list[tuple[CallSite, ...]] = []
    engine = create_engine("sqlite://")
    event.listen(engine, "before_cursor_execute", listener(found))
    with engine.connect() as connection:
        connection.execute(text("select 1"))
    engine.dispose()
    assert found[0][0].function == "test_a_sync_engine_leads_to_the_line_without_a_greenlet"


def listener(found: list[tuple[CallSite, ...]]) -> Callable[..., None]:
    """A listener that is not application code, like those of the instrumentation."""
    source = "def listen(*arguments):\n    found.append(frames(getframe(), 2))\n"
    function: Callable[..., None] = defined(stack.__file__, source, found=found, **FINDERS)["listen"]
    return function


def test_a_file_is_classified_once() -> None:
    stack._origin.cache_clear()
    for _ in range(3):
        here(1)
    assert stack._origin.cache_info().misses == stack._origin.cache_info().currsize
