"""What is wrapped takes every call that it took before, and gives the same result.

Each row of `ROWS` is one function of another package. It is called in each way its signature allows, and in wrong ways,
inside of a request: without telemetry, with telemetry, and with telemetry whose own code fails. What is wrapped and has
no row fails a test.
"""

import asyncio
import importlib
import inspect
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import anyio.to_thread
import cachetools
import httpx
import pytest
from fastapi import FastAPI, Request, routing
from fastapi.dependencies.models import Dependant
from sqlalchemy import Engine, QueuePool, create_engine
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse

import otel_fastperf
from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.instrumentation import client_constructors
from otel_fastperf.internals.patching import Patch
from otel_fastperf.zero_code import apps


@dataclass
class Shop:
    """An app, and what the rows take from it while it answers a request."""

    app: FastAPI
    request: Request = field(init=False)
    stack: AsyncExitStack = field(init=False)
    caches: dict[str, Any] = field(default_factory=dict)
    engine: Engine = field(
        default_factory=lambda: create_engine(
            "sqlite://", poolclass=QueuePool, max_overflow=-1, connect_args={"check_same_thread": False}
        )
    )


class Call(NamedTuple):
    """A function, its arguments by name, and what is compared of its result."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    seen: Callable[[Any], Any] = lambda result: result


class Way(NamedTuple):
    """One way of passing arguments."""

    by_position: tuple[str, ...]
    by_name: tuple[str, ...]
    unknown: bool = False


class Row(NamedTuple):
    """A wrapped function: its calls by label, made anew for each way, and the places of ours that are broken."""

    calls: Callable[[Shop], dict[str, Call]]
    breaks: tuple[str, ...]


ROWS: Final[dict[str, Row]] = {}


def row(name: str, *breaks: str) -> Callable[[Callable[[Shop], dict[str, Call]]], Callable[[Shop], dict[str, Call]]]:
    def add(calls: Callable[[Shop], dict[str, Call]]) -> Callable[[Shop], dict[str, Call]]:
        ROWS[name] = Row(calls, breaks)
        return calls

    return add


def fails(*_values: Any) -> None:
    raise KeyError("the app's own")


def values_of(*values: Any) -> tuple[Any, ...]:
    return values


# FastAPI, Starlette, anyio


@row("anyio.to_thread.run_sync", "instrumentation.phases:current_record", "requests.record:RequestRecord.waited")
def _(_shop: Shop) -> dict[str, Call]:
    options = {"abandon_on_cancel": True, "limiter": anyio.CapacityLimiter(1)}
    return {
        "returns": Call(anyio.to_thread.run_sync, {"func": values_of, "args": (1, 2), **options}),
        "raises": Call(anyio.to_thread.run_sync, {"func": fails, "args": (1,), **options}),
        "no function": Call(anyio.to_thread.run_sync, {"func": None}),
    }


@row("fastapi.routing.solve_dependencies", "instrumentation.phases:current_record")
def _(shop: Shop) -> dict[str, Call]:
    async def dependency() -> int:
        return 7

    given = {
        "request": shop.request,
        "dependant": Dependant(dependencies=[Dependant(call=dependency, name="seven", path="/")], path="/"),
        "body": None,
        "dependency_cache": {},
        "async_exit_stack": shop.stack,
        "embed_body_fields": False,
    }
    return {"": Call(vars(routing)["solve_dependencies"], given, lambda solved: (solved.values, solved.errors))}


@row("fastapi.routing.run_endpoint_function", "instrumentation.phases:current_record")
def _(_shop: Shop) -> dict[str, Call]:
    async def endpoint(a: int) -> int:
        return a

    def given(call: Any, values: dict[str, int]) -> dict[str, Any]:
        return {"dependant": Dependant(call=call, path="/"), "values": values, "is_coroutine": call is endpoint}

    return {
        "async": Call(routing.run_endpoint_function, given(endpoint, {"a": 1})),
        "def": Call(routing.run_endpoint_function, given(values_of, {})),
        "raises": Call(routing.run_endpoint_function, given(fails, {})),
    }


@row("starlette.responses.StreamingResponse.stream_response", "instrumentation.phases:current_record")
def _(_shop: Shop) -> dict[str, Call]:
    class Other(StreamingResponse):
        async def stream_response(self, send: Any) -> None:
            await super().stream_response(send=send)

    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    def seen(_result: None) -> list[Any]:
        return sent

    response = StreamingResponse(parts())
    return {
        "bound": Call(response.stream_response, {"send": send}, seen),
        "unbound": Call(StreamingResponse.stream_response, {"self": response, "send": send}, seen),
        "subclass": Call(Other(parts()).stream_response, {"send": send}, seen),
        "raises": Call(response.stream_response, {"send": fails}, seen),
    }


@row(
    "starlette.background.BackgroundTask.__call__",
    "instrumentation.background:current_record",
    "instrumentation.background:error_type",
    "tracing.tracer:LeanTracer.start_span",
)
def _(_shop: Shop) -> dict[str, Call]:
    class Other(BackgroundTask):
        async def __call__(self) -> None:
            await super().__call__()

    done: list[int] = []
    task = BackgroundTask(done.append, 1)
    return {
        "bound": Call(task.__call__, {}, lambda _none: done),
        "unbound": Call(BackgroundTask.__call__, {"self": task}, lambda _none: done),
        "subclass": Call(Other(done.append, 1).__call__, {}, lambda _none: done),
        "raises": Call(BackgroundTask(fails).__call__, {}),
    }


async def status_of(chain: Any) -> int:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(chain), base_url="http://shop") as client:
        return (await client.get("/nothing")).status_code


@row("fastapi.applications.FastAPI.build_middleware_stack", "instrumentation.layers:Layers.place")
def _(shop: Shop) -> dict[str, Call]:
    return {"": Call(shop.app.build_middleware_stack, {}, status_of)}


@row("fastapi.routing.APIRouter.lifespan_context", "installation:Installation._install")
def _(shop: Shop) -> dict[str, Call]:
    async def state_of(lifespan: Any) -> Any:
        async with lifespan as state:
            return state

    return {"": Call(shop.app.router.lifespan_context, {"shop": shop.app}, state_of)}


# nothing of ours can fail there: it notes times
@row("starlette.middleware.base.BaseHTTPMiddleware.dispatch_func")
def _(shop: Shop) -> dict[str, Call]:
    node: Any = shop.app.middleware_stack
    while not isinstance(node, BaseHTTPMiddleware):
        node = node.app

    async def respond(request: Any) -> str:
        return f"response to {request}"

    return {
        "returns": Call(node.dispatch_func, {"received": "a", "go_on": respond}),
        "raises": Call(node.dispatch_func, {"received": "a", "go_on": fails}),
    }


@row("anyio.CapacityLimiter.acquire_on_behalf_of", "monitors.threads:_WaitListener._note")
def _(_shop: Shop) -> dict[str, Call]:
    limiter, borrower = anyio.to_thread.current_default_thread_limiter(), object()

    def released(_none: None) -> None:
        limiter.release_on_behalf_of(borrower)

    acquire = limiter.acquire_on_behalf_of
    return {
        "bound": Call(acquire, {"borrower": borrower}, released),
        "unbound": Call(type(limiter).acquire_on_behalf_of, {"self": limiter, "borrower": borrower}, released),
    }


# logging


@row("logging.Logger.makeRecord", "logs:trace_context")
def _(_shop: Shop) -> dict[str, Call]:
    class Other(logging.Logger):
        def makeRecord(self, name: str, *arguments: Any, **options: Any) -> logging.LogRecord:  # noqa: N802
            return super().makeRecord(f"other.{name}", *arguments, **options)

    def seen(record: logging.LogRecord) -> Any:
        kept = {"name", "levelno", "pathname", "lineno", "msg", "args", "exc_info", "funcName", "stack_info", "shop"}
        return {key: value for key, value in vars(record).items() if key in kept}

    given = {"name": "a", "level": 20, "fn": "f.py", "lno": 3, "msg": "%s", "args": (1,), "exc_info": None}
    given |= {"func": "g", "extra": {"shop": 1, "route": "of the app"}, "sinfo": "stack"}
    logger = logging.getLogger("shop")
    return {
        "bound": Call(logger.makeRecord, given, seen),
        "unbound": Call(logging.Logger.makeRecord, {"self": logger, **given}, seen),
        "subclass": Call(Other("b").makeRecord, given, seen),
        "raises": Call(logger.makeRecord, {**given, "extra": {"msg": 1}}, seen),
    }


# SQLAlchemy


@row(
    "sqlalchemy.engine.base.Engine.raw_connection",
    "instrumentation.pool:_PoolListeners._new",
    "instrumentation.pool:_PoolListeners._note",
)
def _(shop: Shop) -> dict[str, Call]:
    class Other(Engine):
        """A subclass of an application."""

    def closed(connection: Any) -> str:
        connection.close()
        return type(connection).__name__

    engine = shop.engine
    other = Other(engine.pool, engine.dialect, engine.url)
    return {
        "bound": Call(engine.raw_connection, {}, closed),
        "unbound": Call(Engine.raw_connection, {"self": engine}, closed),
        "subclass": Call(other.raw_connection, {}, closed),
        "raises": Call(create_engine("sqlite:////nowhere/at/all.db").raw_connection, {}, closed),
    }


def transaction_ends(name: str, **given: Any) -> Callable[[Shop], dict[str, Call]]:
    def calls(shop: Shop) -> dict[str, Call]:
        connection = shop.engine.connect()
        shop.stack.callback(connection.close)
        connection.begin()
        return {"": Call(getattr(connection, name), given)}

    return calls


_ENDS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("_commit_impl", {}),
    ("_rollback_impl", {}),
    ("_commit_twophase_impl", {"xid": "a", "is_prepared": True}),
    ("_rollback_twophase_impl", {"xid": "a", "is_prepared": True}),
)
for _name, _given in _ENDS:
    row(f"sqlalchemy.engine.base.Connection.{_name}", "instrumentation.transactions:current_record")(
        transaction_ends(_name, **_given)
    )


# client libraries


def closed_kind(client: Any) -> str:
    return type(client).__name__


def constructed(kind: Any, **given: Any) -> dict[str, Call]:
    class Other(kind):  # type: ignore[misc]
        """A subclass of an application."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)

    return {"itself": Call(kind, given, closed_kind), "subclass": Call(Other, given, closed_kind)}


@row("httpx.Client.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    return constructed(httpx.Client, base_url="http://a", verify=False)


@row("httpx.AsyncClient.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    return constructed(httpx.AsyncClient, base_url="http://a", verify=False)


@row("requests.sessions.Session.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    return constructed(pytest.importorskip("requests").Session)


@row("redis.connection.ConnectionPool.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    kind = pytest.importorskip("redis.connection").ConnectionPool
    return constructed(kind, max_connections=3, host="127.0.0.1", port=1)


@row("redis.asyncio.connection.ConnectionPool.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    kind = pytest.importorskip("redis.asyncio.connection").ConnectionPool
    return constructed(kind, max_connections=3, host="127.0.0.1", port=1)


@row("sqlalchemy.engine.base.Engine.__init__", "instrumentation.client_constructors:call_site")
def _(shop: Shop) -> dict[str, Call]:
    engine = shop.engine
    given = {"pool": engine.pool, "dialect": engine.dialect, "url": engine.url, "echo": False}
    return constructed(Engine, **given)


@row("asyncpg.pool.Pool.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    pool = pytest.importorskip("asyncpg.pool")
    connection = pytest.importorskip("asyncpg.connection").Connection
    given = {"connection_class": connection, "record_class": pytest.importorskip("asyncpg").Record}
    given |= {"min_size": 0, "max_size": 1, "max_queries": 1, "loop": None, "setup": None, "init": None}
    return constructed(pool.Pool, **given, max_inactive_connection_lifetime=1.0)


@row("grpc._channel.Channel.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    given = {"target": "127.0.0.1:1", "options": (), "credentials": None, "compression": None}
    return constructed(pytest.importorskip("grpc._channel").Channel, **given)


@row("grpc.aio._channel.Channel.__init__", "instrumentation.client_constructors:call_site")
def _(_shop: Shop) -> dict[str, Call]:
    given = {"target": "127.0.0.1:1", "options": (), "credentials": None, "compression": None, "interceptors": None}
    return constructed(pytest.importorskip("grpc.aio._channel").Channel, **given)


def body_streams() -> tuple[Any, Any, Any, Any]:
    transports = importlib.import_module("httpx._transports.default")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    return transports.ResponseStream, [b"a", b"b"], transports.AsyncResponseStream, pieces()


@row("httpx._transports.default.ResponseStream.__init__", "instrumentation.response_bodies:trace")
def _(_shop: Shop) -> dict[str, Call]:
    kind, body, _, _ = body_streams()
    return {"": Call(kind, {"httpcore_stream": body}, closed_kind)}


@row("httpx._transports.default.AsyncResponseStream.__init__", "instrumentation.response_bodies:trace")
def _(_shop: Shop) -> dict[str, Call]:
    _, _, kind, body = body_streams()
    return {"": Call(kind, {"httpcore_stream": body}, closed_kind)}


@row("httpx._transports.default.ResponseStream.__iter__", "instrumentation.outgoing_calls:current_record")
def _(_shop: Shop) -> dict[str, Call]:
    kind, body, _, _ = body_streams()
    return {
        "bound": Call(kind(body).__iter__, {}, list),
        "unbound": Call(kind.__iter__, {"self": kind(body)}, list),
        "raises": Call(kind(map(fails, body)).__iter__, {}, list),
    }


@row("httpx._transports.default.AsyncResponseStream.__aiter__", "instrumentation.outgoing_calls:current_record")
def _(_shop: Shop) -> dict[str, Call]:
    _, _, kind, body = body_streams()

    async def pieces(parts: Any) -> list[bytes]:
        return [part async for part in parts]

    return {
        "bound": Call(kind(body).__aiter__, {}, pieces),
        "unbound": Call(kind.__aiter__, {"self": kind(body)}, pieces),
    }


# caches

#: those of cachetools are plain additions, which cannot fail
COUNTS: Final = ("caches.adapters:_Counts.hits", "caches.adapters:_Counts.misses")


class OwnCache(cachetools.LRUCache[str, int]):
    """A cache of the application whose methods take more."""

    def popitem(self, *, last: bool = False) -> tuple[str, int]:
        return super().popitem() if last else ("first", 0)

    def __getitem__(self, key: str, *, default: int | None = None) -> int:
        return super().__getitem__(key) if default is None else default


def with_entries(cache: Any, result: Any) -> tuple[Any, dict[str, int]]:
    return result, dict(cache.items())


def cachetools_calls(method: str, **given: Any) -> Callable[[Shop], dict[str, Call]]:
    def calls(shop: Shop) -> dict[str, Call]:
        found = {}
        for name in ("LRUCache", "TTLCache", "OwnCache"):
            cache = shop.caches[name]
            for key in tuple(cache):
                del cache[key]
            if method != "__setitem__":
                cache["a"] = 1
            found[name] = Call(getattr(cache, method), given, partial(with_entries, cache))
        return found

    return calls


_CACHETOOLS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("get", {"key": "b", "default": 5}),
    ("__getitem__", {"key": "a", "default": 5, "cache_getitem": lambda _cache, _key: 9}),
    ("__setitem__", {"key": "a", "value": 5, "cache_setitem": cachetools.Cache.__setitem__}),
    ("__missing__", {"key": "b"}),
    ("popitem", {"last": True}),
)
for _name, _given in _CACHETOOLS:
    row(f"cachetools.{_name}")(cachetools_calls(_name, **_given))


@row("aiocache.get", *COUNTS)
def _(shop: Shop) -> dict[str, Call]:
    return {"": Call(shop.caches["aiocache"].get, {"key": "a", "default": 5, "namespace": "b"})}


@row("aiocache.multi_get", *COUNTS)
def _(shop: Shop) -> dict[str, Call]:
    return {"": Call(shop.caches["aiocache"].multi_get, {"keys": ["a", "b"], "namespace": "b"})}


@row("fastapi_cache.get_with_ttl", *COUNTS)
def _(shop: Shop) -> dict[str, Call]:
    return {"": Call(shop.caches["fastapi_cache"].get_with_ttl, {"key": "a"})}


def redis_calls(method: str, **given: Any) -> Callable[[Shop], dict[str, Call]]:
    def calls(shop: Shop) -> dict[str, Call]:
        clients = (shop.caches["redis"], shop.caches["redis.asyncio"])
        return {type(each).__module__: Call(getattr(each, method), given) for each in clients}

    return calls


_REDIS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("get", {"name": "a"}),
    ("getex", {"name": "a", "ex": 5}),
    ("hget", {"name": "b", "key": "c"}),
    ("mget", {"keys": ["a"], "args": ("b",)}),
    ("hmget", {"name": "b", "keys": ["c"], "args": ("d",)}),
)
for _name, _given in _REDIS:
    row(f"redis.{_name}", *COUNTS)(redis_calls(_name, **_given))


# how each is called


def ways(call: Call) -> Iterator[Way]:
    """The ways to call, with all arguments and with the required ones; then without any, and with one too many."""
    parameters = inspect.signature(call.function).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    names = [name for name in parameters if name in call.arguments]
    others = tuple(name for name in call.arguments if name not in parameters) if takes_any else ()
    required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    required = [name for name in required if parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL]
    for given in {tuple(names): None, tuple(required): None}:
        yield from _splits(given, parameters, others)
    yield Way((), tuple(required), unknown=True)
    if required:
        yield Way((), ())


def _splits(given: tuple[str, ...], parameters: Any, others: tuple[str, ...]) -> Iterator[Way]:
    """All numbers of arguments that are given by position."""
    leading = 0
    for name, expected in zip(given, parameters, strict=False):
        if name != expected or parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            break
        leading += 1
    for number in range(leading + 1):
        by_name = given[number:]
        kinds = [parameters[name].kind for name in by_name]
        if inspect.Parameter.POSITIONAL_ONLY not in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
            yield Way(given[:number], by_name + others)


async def outcome(call: Call, way: Way) -> Any:
    """What comes of a call."""
    parameters = inspect.signature(call.function).parameters
    positional: list[Any] = []
    for name in way.by_position:
        many = name in parameters and parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        positional += call.arguments[name] if many or name == "args" else [call.arguments[name]]
    named = {name: call.arguments[name] for name in way.by_name}
    try:
        result = call.function(*positional, **named, **({"unknown_to_all": 1} if way.unknown else {}))
        result = await result if inspect.isawaitable(result) else result
        seen = call.seen(result)
        return await seen if inspect.isawaitable(seen) else seen
    except Exception as error:  # noqa: BLE001 - compared with that of the other call
        # a TypeError names the function
        return type(error), "" if isinstance(error, TypeError) else str(error)


Plan = list[tuple[str, Way]]


def shop_of(run: Callable[[Shop], Any]) -> Shop:
    """An app with a middleware and a lifespan, whose endpoint runs the calls."""

    @asynccontextmanager
    async def lifespan(shop: FastAPI) -> AsyncIterator[dict[str, int]]:
        yield {"started": 1}

    app = FastAPI(lifespan=lifespan)
    shop = Shop(app)

    @app.middleware("http")
    async def passes(received: Any, go_on: Any) -> Any:
        return await go_on(received)

    @app.get("/")
    async def root(request: Request) -> None:
        async with AsyncExitStack() as shop.stack:
            shop.request = request
            await run(shop)
        # FastAPI's caches keep its endpoints, and so what these refer to
        del shop.request, shop.stack
        # fakeredis gives a client its pool, and old versions of redis then leave that open
        shop.caches["redis"].close()
        shop.caches["redis"].connection_pool.disconnect()
        await shop.caches["redis.asyncio"].aclose()
        await shop.caches["redis.asyncio"].connection_pool.disconnect()

    return shop


def caches_of() -> dict[str, Any]:
    caches: dict[str, Any] = {
        "LRUCache": cachetools.LRUCache(5),
        "TTLCache": cachetools.TTLCache(5, 600),
        "OwnCache": OwnCache(5),
    }
    aiocache, fakeredis = pytest.importorskip("aiocache"), pytest.importorskip("fakeredis")
    caches["aiocache"] = aiocache.SimpleMemoryCache()
    caches["fastapi_cache"] = pytest.importorskip("fastapi_cache.backends.inmemory").InMemoryBackend()
    caches["redis"] = fakeredis.FakeRedis()
    caches["redis.asyncio"] = fakeredis.FakeAsyncRedis()
    return caches


async def request(shop: Shop) -> None:
    async with shop.app.router.lifespan_context(shop.app):
        transport = httpx.ASGITransport(shop.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.get("/")).status_code == 200


Answers = dict[str, list[tuple[str, Way, Any]]]


def unwrapped() -> tuple[Answers, dict[str, Plan]]:
    """The outcomes of all rows without telemetry, and how the functions were called."""
    found: Answers = {}
    plans: dict[str, Plan] = {}

    async def run(shop: Shop) -> None:
        shop.caches = caches_of()
        for name, each in ROWS.items():
            plan = [(label, way) for label, call in each.calls(shop).items() for way in ways(call)]
            plans[name] = plan
            found[name] = [(label, way, await outcome(each.calls(shop)[label], way)) for label, way in plan]

    asyncio.run(request(shop_of(run)))
    return found, plans


@pytest.fixture(scope="module")
def expected() -> tuple[Answers, dict[str, Plan]]:
    return unwrapped()


def broken(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("telemetry is broken")


def break_it(place: str, patch: pytest.MonkeyPatch) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(f"otel_fastperf.{module}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    patch.setattr(owner, name, broken)


def observed(plans: dict[str, Plan], *, breaking: bool) -> tuple[Answers, set[str]]:
    """The outcomes with telemetry, and the names of all functions that it has wrapped."""
    found: Answers = {}
    wrapped: set[str] = set()
    made = Patch.__init__

    def init(self: Any, target: Any, name: str, wrap: Any) -> None:
        owner = target if inspect.isclass(target) else type(target)
        where = target.__name__ if inspect.ismodule(target) else f"{owner.__module__}.{owner.__qualname__}"
        wrapped.add(f"{where}.{name}")
        made(self, target, name, wrap)

    async def run(shop: Shop) -> None:
        for name, each in ROWS.items():
            found[name] = []
            with pytest.MonkeyPatch.context() as patch:
                for place in each.breaks if breaking else ():
                    break_it(place, patch)
                for label, way in plans[name]:
                    found[name].append((label, way, await outcome(each.calls(shop)[label], way)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Patch, "__init__", init)
        shop = shop_of(run)
        shop.caches = caches_of()
        with setup_telemetry(shop.app, settings=Settings(loop={"start_after": 0.0})) as telemetry:
            for name, cache in shop.caches.items():
                telemetry.observe_cache(cache, name)
            asyncio.run(request(shop))
    return found, wrapped


def shown(answers: Answers) -> dict[str, list[str]]:
    return {name: [f"{label} {way}: {seen!r}" for label, way, seen in each] for name, each in answers.items()}


@pytest.fixture(scope="module")
def seen(expected: tuple[Answers, dict[str, Plan]]) -> tuple[Answers, set[str]]:
    return observed(expected[1], breaking=False)


@pytest.mark.parametrize("name", ROWS)
def test_every_call_has_the_outcome_that_it_has_without_telemetry(name: str, expected: Any, seen: Any) -> None:
    assert shown(seen[0])[name] == shown(expected[0])[name]


def test_a_failure_of_telemetry_changes_no_outcome(expected: tuple[Answers, dict[str, Plan]]) -> None:
    assert shown(observed(expected[1], breaking=True)[0]) == shown(expected[0])


def test_each_function_that_is_patched_has_a_row(seen: tuple[Answers, set[str]]) -> None:
    assert seen[1] - set(ROWS) == set()
    # what an app of another test has wrapped, and nobody has freed, is not wrapped again
    assert seen[1]


def test_each_constructor_that_is_patched_is_called_alike() -> None:
    """Those of libraries that are not installed here have no row; all have one wrapper."""
    for each in client_constructors._CONSTRUCTORS:
        kind = SimpleNamespace(__init__=lambda self, *arguments, **options: self.append((arguments, options)))
        patch: Patch[Any] = Patch(kind, "__init__", client_constructors._noting(each))
        made: list[Any] = []
        patch.wrapper(made, 1, self_=2)
        assert made == [((1,), {"self_": 2})]


#: file -> number of lines that put something of ours into another package in another way than by a patch
PLACES: Final = {
    "caches/adapters.py": 3,  # rows: cachetools, aiocache, fastapi_cache, redis
    "instrumentation/client_span.py": 1,  # an event of SQLAlchemy, as in the next three
    "instrumentation/engine_events.py": 1,
    "instrumentation/pool.py": 1,
    "instrumentation/statements.py": 1,
    "instrumentation/lifespan.py": 1,  # contextlib's generator
    "monitors/gc.py": 1,
    "monitors/threads.py": 2,  # row: anyio.CapacityLimiter
    "tracing/provider.py": 1,  # a tracer of ours
    "tracing/tracer.py": 1,
    "zero_code/apps.py": 1,  # the test below
}


def test_each_place_that_changes_another_package_is_known() -> None:
    """Who adds one adds a row, too."""
    calls = r"\b(?:hooked|_set_class|event\.listen|callbacks\.append)\("
    changes = re.compile(rf"^[^#\n]*(?:{calls}|\.(?:__class__|__call__|gen|start_span) = )", re.MULTILINE)
    package = Path(otel_fastperf.__file__).parent
    found = {
        str(path.relative_to(package)): number
        for path in sorted(package.rglob("*.py"))
        if path.name != "patching.py" and (number := len(changes.findall(path.read_text())))
    }
    assert found == PLACES


def test_an_app_that_is_observed_without_code_is_called_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class App:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            calls.append((scope, receive, send))

    async def main() -> None:
        await App()({}, 1, 2)
        await App()({}, receive=1, send=2)
        await App().__call__(scope={}, receive=1, send=2)

    monkeypatch.setattr("otel_fastperf.telemetry.set_up_automatically", broken)
    apps._observe(SimpleNamespace(Starlette=App))  # type: ignore[arg-type]
    asyncio.run(main())
    assert calls == [({}, 1, 2)] * 3


# failures that no row brings about


def errors(telemetry: Telemetry, part: str) -> float:
    name = "fastperf_telemetry_errors_total"
    return telemetry.metrics.registry.get_sample_value(name, {"part": part}) or 0.0


def test_an_app_stops_although_telemetry_cannot_be_removed() -> None:
    async def run(_shop: Shop) -> None:
        """Nothing."""

    shop = shop_of(run)
    shop.caches = caches_of()
    with setup_telemetry(shop.app) as telemetry, pytest.MonkeyPatch.context() as patch:
        break_it("installation:Installation._remove", patch)
        asyncio.run(request(shop))
        assert errors(telemetry, "installation") == 1


def test_a_thread_is_found_although_the_limiter_does_not_tell_its_state() -> None:
    async def run(_shop: Shop) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(anyio.to_thread.current_default_thread_limiter()), "statistics", broken, raising=False)
            found.append(await anyio.to_thread.run_sync(values_of))

    found: list[Any] = []
    shop = shop_of(run)
    shop.caches = caches_of()
    with setup_telemetry(shop.app) as telemetry:
        asyncio.run(request(shop))
        assert found == [()]
        assert errors(telemetry, "threadpool_wait") == 1


def test_a_connection_is_made_although_contrib_s_spans_cannot_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool)
    with setup_telemetry(FastAPI(), settings=Settings(database={"client_span": "contrib"})) as telemetry:
        break_it("instrumentation.client_span:_watched_engines", monkeypatch)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        assert errors(telemetry, "database") == 1
        monkeypatch.undo()
    engine.dispose()
