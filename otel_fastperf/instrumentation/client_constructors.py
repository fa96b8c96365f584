"""Notes each client, session, channel, pool and engine that a request makes, on the request's record.

Their constructors are patched once the application has imported their modules, which it has when its event loop runs.
What is made outside of requests is not looked at.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import wraps
from typing import Any, Final, NamedTuple

from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.calls import MadeClient, RequestCalls
from otel_fastperf.requests.record import current_record
from otel_fastperf.signals import Signals

#: `requests.get()` and `httpx.get()` make a client for one call, and are not written to keep one
_SHORTCUTS: Final = frozenset({"requests.api", "httpx._api"})
#: most clients that are noted of a request
_MOST: Final = 16


class _Constructor(NamedTuple):
    """A class whose instances keep connections.

    Attributes:
        module, name: Where the class is.
        label: What it is called in findings.
        shares: Arguments that give an instance the connections of another one.
    """

    module: str
    name: str
    label: str
    shares: tuple[str, ...] = ()


_CONSTRUCTORS: Final = (
    _Constructor("httpx", "AsyncClient", "httpx.AsyncClient", ("transport", "app", "mounts")),
    _Constructor("httpx", "Client", "httpx.Client", ("transport", "app", "mounts")),
    _Constructor("aiohttp.client", "ClientSession", "aiohttp.ClientSession", ("connector",)),
    _Constructor("requests.sessions", "Session", "requests.Session"),
    _Constructor("redis.connection", "ConnectionPool", "redis.ConnectionPool"),
    _Constructor("redis.asyncio.connection", "ConnectionPool", "redis.asyncio.ConnectionPool"),
    _Constructor("pymongo.synchronous.mongo_client", "MongoClient", "pymongo.MongoClient"),
    _Constructor("pymongo.asynchronous.mongo_client", "AsyncMongoClient", "pymongo.AsyncMongoClient"),
    _Constructor("grpc._channel", "Channel", "grpc.Channel"),
    _Constructor("grpc.aio._channel", "Channel", "grpc.aio.Channel"),
    _Constructor("asyncpg.pool", "Pool", "asyncpg.Pool"),
    _Constructor("psycopg_pool.pool", "ConnectionPool", "psycopg_pool.ConnectionPool"),
    _Constructor("psycopg_pool.pool_async", "AsyncConnectionPool", "psycopg_pool.AsyncConnectionPool"),
    _Constructor("sqlalchemy.engine.base", "Engine", "sqlalchemy.Engine"),
)


@asynccontextmanager
async def client_constructors_observed(signals: Signals) -> AsyncIterator[None]:
    """Note what requests make, until the context manager exits."""
    with ExitStack() as exits:
        for each in _CONSTRUCTORS:
            kind = getattr(sys.modules.get(each.module), each.name, None)
            if kind is not None:
                exits.enter_context(subscribed(kind, "__init__", _noting(each), signals, signals.guard))
        yield


def _noting(constructor: _Constructor) -> Callable[[Any, Patch[Guard]], Any]:
    def wrap(original: Any, patch: Patch[Guard]) -> Any:
        @wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces a constructor
            started = time.perf_counter()
            original(self, *args, **kwargs)
            for guard in patch.subscribers.values():
                _note(constructor, kwargs, time.perf_counter() - started, guard)
                break

        return __init__

    return wrap


def _note(constructor: _Constructor, arguments: Mapping[str, Any], seconds: float, guard: Guard) -> None:
    try:
        record = current_record()
        if record is None or record.ended or record.excluded:
            return
        if any(arguments.get(name) is not None for name in constructor.shares):
            return
        frame = sys._getframe(2)  # noqa: SLF001 - there is no other way to a frame
        if frame.f_globals.get("__name__") in _SHORTCUTS:
            return
        calls = record.calls = record.calls or RequestCalls()
        # one that makes another, such as a session that makes its pool, is noted first
        if len(calls.made) < _MOST:
            site = call_site(frame)
            if site is not None:
                calls.made.append(MadeClient(constructor.label, site, seconds))
    except Exception as error:  # noqa: BLE001 - costs the note, not the client
        guard.failed("clients", error)
