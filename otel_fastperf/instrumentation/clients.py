"""Switches the installed client instrumentations of OpenTelemetry on, and off again.

They are found by their entry points, group `opentelemetry_instrumentor`. Each belongs to the whole process, so their
state is kept here once, for all telemetries of the process: they are on while one of them wants it. What the
application or the `opentelemetry-instrument` agent has switched on is left alone.

The drivers among them make no spans where SQLAlchemy runs the statement, which has a span already.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from opentelemetry import metrics
from opentelemetry.trace import TracerProvider

from otel_fastperf.instrumentation.outgoing_calls import is_inside_sqlalchemy
from otel_fastperf.instrumentation.routed_spans import RoutedProvider
from otel_fastperf.internals.frames import is_application
from otel_fastperf.settings import ClientsSettings
from otel_fastperf.signals import Signals

_GROUP: Final = "opentelemetry_instrumentor"

#: entry points of the instrumentations of clients, in the order in which they are switched on. Not among them: web
#: frameworks and servers, SQLAlchemy, and drivers of databases that run inside of the process.
_CLIENTS: Final = (
    *("httpx", "httpx2", "aiohttp-client", "requests", "urllib3", "urllib"),
    *("grpc_client", "grpc_aio_client"),
    *("redis", "pymemcache"),
    *("pymongo", "cassandra", "elasticsearch"),
    *("celery", "kafka", "aiokafka", "confluent_kafka", "pika", "aio-pika"),
    *("boto", "boto3", "botocore", "aiobotocore"),
    *("openai", "openai_v2", "anthropic", "vertexai", "google-genai"),
)
#: those of database drivers, which SQLAlchemy may use
_DRIVERS: Final = ("asyncpg", "psycopg", "psycopg2", "aiopg", "mysql", "mysqlclient", "pymysql")


#: module of a client library -> the end of the name of its instrumentation's distribution
_LIBRARIES: Final = {
    "httpx": "httpx",
    "aiohttp": "aiohttp-client",
    "requests": "requests",
    "urllib3": "urllib3",
    "redis": "redis",
    "pymongo": "pymongo",
    "grpc": "grpc",
    "botocore": "botocore",
    "boto3": "botocore",
    "celery": "celery",
    "aiokafka": "aiokafka",
    "confluent_kafka": "confluent-kafka",
    "pika": "pika",
    "aio_pika": "aio-pika",
    "elasticsearch": "elasticsearch",
    "pymemcache": "pymemcache",
}


#: libraries that an extra of ours is named after, which brings their instrumentation
_EXTRAS: Final = frozenset({"aiohttp", "httpx", "redis", "requests"})


@contextmanager
def instrumented_clients(settings: ClientsSettings, signals: Signals, provider: TracerProvider) -> Iterator[None]:
    """Have the calls of client libraries make spans of this provider, until the context manager exits."""
    user = _ClientUser(settings, signals, provider)
    _PROCESS.enter(user)
    try:
        yield
    finally:
        _PROCESS.leave(user)


def clients_description(settings: ClientsSettings) -> str:
    """The instrumentations that are there and wanted, for `Telemetry.describe()`."""
    names = [point.name for point in _wanted(settings)]
    return f"instrumented: {', '.join(names)}" if names else "no client instrumentation is installed"


def missing_instrumentations(settings: ClientsSettings) -> dict[str, str]:
    """The client libraries that the application's modules use without an instrumentation, and what pip has to install.

    Without those that are left off.
    """
    if not settings.enabled or not settings.instrument or "*" in settings.disabled:
        return {}
    installed = {point.name.partition("_client")[0].replace("_", "-") for point in entry_points(group=_GROUP)}
    used = _used_libraries()
    return {
        library: f"otel-fastperf[{library}]" if library in _EXTRAS else f"opentelemetry-instrumentation-{name}"
        for library, name in _LIBRARIES.items()
        if library in used
        and not {name, name.removesuffix("-client")} & installed
        and not {library, name, name.replace("-", "_")} & set(settings.disabled)
    }


def _used_libraries() -> frozenset[str]:
    """The packages of which the application's modules hold a module, a class, a function or an object."""
    used: set[str] = set()
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and is_application(file):
            for value in tuple(vars(module).values()):
                used.add(_module_of(value).partition(".")[0])
    return frozenset(used)


def _module_of(value: object) -> str:
    # by its type: an attribute may make a lazy proxy load its object
    if type(value) is ModuleType:
        return value.__name__
    if type(value) is FunctionType:
        return value.__module__
    return str((value if isinstance(value, type) else type(value)).__module__)


class _ClientUser(NamedTuple):
    """One telemetry: which instrumentations it wants, and where their spans go."""

    settings: ClientsSettings
    signals: Signals
    provider: TracerProvider


class _Instrumentations:
    """The client instrumentations of this process that we have switched on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: tuple[_ClientUser, ...] = ()
        #: by entry point, with the provider of its spans
        self._on: dict[str, tuple[Any, RoutedProvider]] = {}

    def enter(self, user: _ClientUser) -> None:
        with self._lock:
            self._users = (*self._users, user)
            for point in _wanted(user.settings):
                try:
                    self._switch_on(point)
                except Exception as error:  # noqa: BLE001 - somebody else's package
                    user.signals.guard.failed("clients", error)
            self._route()

    def leave(self, user: _ClientUser) -> None:
        with self._lock:
            self._users = tuple(each for each in self._users if each is not user)
            for name, (instrumentor, _) in tuple(self._on.items()):
                if any(_wants(each.settings, name) for each in self._users):
                    continue
                del self._on[name]
                try:
                    # the application may have switched it off
                    if instrumentor.is_instrumented_by_opentelemetry:
                        instrumentor.uninstrument()
                except Exception as error:  # noqa: BLE001 - somebody else's package
                    user.signals.guard.failed("clients", error)
            self._route()

    def _switch_on(self, point: EntryPoint) -> None:
        if point.name in self._on:
            return
        try:
            instrumentor = point.load()()
        except ImportError:
            return  # the library that it is for is not installed
        if instrumentor.is_instrumented_by_opentelemetry or _lacks_library(instrumentor):
            return
        is_driver = point.name in _DRIVERS
        provider = RoutedProvider((), _is_statement if is_driver else bool)
        with _stable_names():
            instrumentor.instrument(tracer_provider=provider, skip_dep_check=True, **_without_meters())
        self._on[point.name] = instrumentor, provider

    def _route(self) -> None:
        for name, (_, provider) in self._on.items():
            provider.users = tuple(user for user in self._users if _wants(user.settings, name))


def _wanted(settings: ClientsSettings) -> Sequence[EntryPoint]:
    """Those of `_installed` that are not left off."""
    return [point for point in _installed() if _wants(settings, point.name)] if settings.instrument else []


@cache  # it reads the metadata of every package, and Mangum has the parts installed for each event
def _installed() -> tuple[EntryPoint, ...]:
    """The instrumentations that are installed, as are the libraries that they are for."""
    from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

    names = dict.fromkeys((*_CLIENTS, *_DRIVERS))
    installed = {point.name: point for point in entry_points(group=_GROUP) if point.name in names}
    return tuple(
        installed[name]
        for name in names
        if name in installed and ((dist := installed[name].dist) is None or get_dist_dependency_conflicts(dist) is None)
    )


def _wants(settings: ClientsSettings, name: str) -> bool:
    return settings.instrument and not {name, "*"} & set(settings.disabled)


def _lacks_library(instrumentor: Any) -> bool:
    """Whether the library that it is for is missing, or of a version that it does not know."""
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts

    return get_dependency_conflicts(instrumentor.instrumentation_dependencies()) is not None


def _without_meters() -> dict[str, Any]:
    """No metrics of theirs unless there is a provider for them: the API keeps each meter for one that may come."""
    if type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider":
        return {"meter_provider": metrics.NoOpMeterProvider()}
    return {}


def _is_statement() -> bool:
    return is_inside_sqlalchemy(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame


@contextmanager
def _stable_names() -> Iterator[None]:
    """Have instrumentations that are switched on here use the stable names, unless a variable says which to use.

    The only other way is `OTEL_SEMCONV_STABILITY_OPT_IN`, which is read once, for all instrumentations of the process.
    """
    try:
        from opentelemetry.instrumentation import _semconv

        chosen = _semconv._OpenTelemetrySemanticConventionStability  # noqa: SLF001
        chosen._initialize()  # type: ignore[no-untyped-call]  # noqa: SLF001
        modes, kinds = _semconv._StabilityMode, _semconv._OpenTelemetryStabilitySignalType  # noqa: SLF001
        found = chosen._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING  # noqa: SLF001
        stable = {**found, kinds.HTTP: modes.HTTP, kinds.DATABASE: modes.DATABASE}
    except (ImportError, AttributeError):
        yield  # another version of a private module: the old names are understood too
        return
    if os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN"):
        yield
        return
    chosen._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING = stable  # noqa: SLF001
    try:
        yield
    finally:
        chosen._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING = found  # noqa: SLF001


_PROCESS: Final = _Instrumentations()
