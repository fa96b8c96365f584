"""The parts that `setup_telemetry` installs, one declaration each.

To add a part, write a function that returns its `Part` and name it in `PARTS`.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette

from otel_fastperf.caches.registry import Caches
from otel_fastperf.detectors.n_plus_one import detect_n_plus_one
from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.detectors.sync_db_on_loop import detect_sync_db_on_loop
from otel_fastperf.errors import SetupError
from otel_fastperf.exposition import Exposition, serve_on_port
from otel_fastperf.instrumentation.background import instrument_background
from otel_fastperf.instrumentation.cache import instrument_caches
from otel_fastperf.instrumentation.client_span import client_span_description, client_spans_from
from otel_fastperf.instrumentation.debug_endpoint import DebugEndpoint
from otel_fastperf.instrumentation.exchanges import Requests
from otel_fastperf.instrumentation.explain import explain_slow_queries
from otel_fastperf.instrumentation.layers import Layers, install_layers
from otel_fastperf.instrumentation.middleware import MiddlewareTimer, SlowMiddlewares
from otel_fastperf.instrumentation.own_pages import OwnPage
from otel_fastperf.instrumentation.phases import instrument_endpoints
from otel_fastperf.instrumentation.pool import instrument_pool
from otel_fastperf.instrumentation.requests import NewLoop
from otel_fastperf.instrumentation.server_span import Source, server_span_description, server_span_from
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.logs import correlate_logs
from otel_fastperf.monitors.cache import monitor_caches
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.monitors.loop import monitor_loop
from otel_fastperf.monitors.memory import monitor_memory
from otel_fastperf.monitors.runner import Monitor
from otel_fastperf.monitors.threads import monitor_threads
from otel_fastperf.monitors.watchdog import monitor_blocked_loop
from otel_fastperf.report.model import Report
from otel_fastperf.settings import MetricsSettings, Settings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing import Tracing
from otel_fastperf.tracing.propagators import propagators_set

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from otel_fastperf.findings_outlet import BuiltInDetector

_logger: Final = logging.getLogger("otel_fastperf")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the package: a line of `Telemetry.describe()`, and how to install it.

    Attributes:
        name: What it observes.
        on: Whether it is installed.
        detail: How it is set up, or why it is off.
        installs: Context managers to enter at set-up, in this order.
        monitors: Monitors to run while an event loop runs.
    """

    name: str
    on: bool
    detail: str
    installs: tuple[AbstractContextManager[object], ...] = ()
    monitors: tuple[Monitor, ...] = ()

    def __str__(self) -> str:
        """`requests: on, own SERVER span`."""
        return f"{self.name}: {'on' if self.on else 'off'}, {self.detail}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Materials:
    """What the parts of one app are built from."""

    app: Starlette
    engines: "Sequence[Engine | AsyncEngine] | None"
    settings: Settings
    signals: Signals
    tracing: Tracing
    caches: Caches
    exposition: Exposition
    source: Source
    layers: Layers


def layers_of(
    app: Starlette,
    settings: Settings,
    signals: Signals,
    *,
    exposition: Exposition,
    diagnose: Callable[[], Report],
    on_new_loop: NewLoop,
) -> Layers:
    """The layers to place into the app's middleware chain."""
    pages = []
    if settings.metrics.enabled and settings.metrics.port is None:
        remedy = "set OTEL_FASTPERF_METRICS_PATH to another path, or OTEL_FASTPERF_METRICS_PORT to a separate port"
        pages.append(OwnPage(settings.metrics.path, exposition, remedy))
    if settings.debug.enabled:
        endpoint = DebugEndpoint(settings.debug, diagnose, signals.guard)
        pages.append(OwnPage(settings.debug.path, endpoint, "set OTEL_FASTPERF_DEBUG_PATH to another path"))
    return Layers(
        app,
        Requests(settings.requests, signals, exemplars=settings.metrics.exemplars),
        pages=pages,
        timer=MiddlewareTimer(signals) if settings.middleware.enabled else None,
        on_new_loop=on_new_loop,
        without_agents=settings.server_span == "own",
    )


def _traces(given: Materials) -> Part:
    # the tracer provider is in place already: every other part needs its tracer
    return Part("traces", on=True, detail=given.tracing.description)


def _metrics(given: Materials) -> Part:
    settings = given.settings.metrics
    if not settings.enabled:
        return _off("metrics")
    token = ", bearer token required" if settings.bearer_token is not None else ""
    closed = (closing(given.exposition),)
    if settings.port is None:
        return Part("metrics", on=True, detail=f"at {settings.path}{token}", installs=closed)
    return Part(
        "metrics",
        on=True,
        detail=f"at http://{settings.host}:{settings.port}{settings.path} once the app has started{token}",
        installs=closed,
        monitors=(partial(_serving_on_port, given.exposition, settings),),
    )


def _findings(given: Materials) -> Part:
    if not given.settings.findings.enabled:
        return _off("findings")
    disabled = given.settings.findings.disabled
    detail = f"all kinds but {', '.join(disabled)}" if disabled else "all kinds"
    return Part("findings", on=True, detail=detail, installs=(_detecting(given),))


def _requests(given: Materials) -> Part:
    app, settings, signals = given.app, given.settings, given.signals
    return Part(
        "requests",
        on=True,
        detail=server_span_description(given.source, app),
        installs=(
            propagators_set(settings.propagators),
            server_span_from(given.source, app, settings, given.tracing.provider),
            instrument_background(signals),
            instrument_endpoints(signals),
            install_layers(app, given.layers),
        ),
    )


def _middleware(given: Materials) -> Part:
    if not given.settings.middleware.enabled:
        return _off("middleware")
    return Part("middleware", on=True, detail="self time of each middleware")


def _database(given: Materials) -> Part:
    if not given.settings.database.enabled:
        return _off("database")
    engines = "every SQLAlchemy engine of the process" if given.engines is None else f"{len(given.engines)} engine(s)"
    spans = client_span_description(given.settings.database.client_span)
    explained = ", slow queries explained" if given.settings.explain.enabled else ""
    detail = f"{engines}, {spans}{explained}"
    return Part("database", on=True, detail=detail, installs=(_observing_database(given),))


def _caches(given: Materials) -> Part:
    if not given.settings.cache.enabled:
        return _off("caches", "cache")
    return Part(
        "caches",
        on=True,
        detail="functions with lru_cache, and caches passed to observe_cache",
        installs=(instrument_caches(given.caches, given.signals),),
        monitors=(partial(monitor_caches, given.caches, given.settings.cache, given.signals),),
    )


def _logs(given: Materials) -> Part:
    if not given.settings.logs.enabled:
        return _off("logs")
    return Part(
        "logs",
        on=True,
        detail="trace_id, span_id and route in every record",
        installs=(correlate_logs(given.signals.guard),),
    )


def _thread_pool(given: Materials) -> Part:
    if not given.settings.threads.enabled:
        return _off("thread pool", "threads")
    monitor = partial(monitor_threads, given.settings.threads, given.signals)
    return Part("thread pool", on=True, detail="anyio's default limiter", monitors=(monitor,))


def _memory(given: Materials) -> Part:
    settings, signals = given.settings.memory, given.signals
    if not settings.enabled:
        return _off("memory")
    return Part(
        "memory",
        on=True,
        detail="RSS, USS, cgroup, garbage collector",
        monitors=(partial(monitor_memory, settings, signals), partial(monitor_gc, settings, signals)),
    )


def _event_loop(given: Materials) -> Part:
    settings, signals = given.settings.loop, given.signals
    if not settings.enabled:
        return _off("event loop", "loop")
    return Part(
        "event loop",
        on=True,
        detail=f"heartbeat every {settings.interval:g} s",
        monitors=(partial(monitor_loop, settings, signals), partial(monitor_blocked_loop, settings, signals)),
    )


def _debug(given: Materials) -> Part:
    settings = given.settings.debug
    if not settings.enabled:
        return _off("debug")
    readers = "for this machine only" if settings.token is None else "with bearer token"
    return Part("debug", on=True, detail=f"at {settings.path} {readers}")


#: Order of installation. The event loop comes after the other monitors: their start-up must not count as blocking.
PARTS: Final[tuple[Callable[[Materials], Part], ...]] = (
    _traces,
    _metrics,
    _findings,
    _requests,
    _middleware,
    _database,
    _caches,
    _logs,
    _thread_pool,
    _memory,
    _event_loop,
    _debug,
)


def _off(name: str, group: str = "") -> Part:
    """A part that is switched off by its group's `enabled`."""
    return Part(name, on=False, detail=f"OTEL_FASTPERF_{(group or name).upper()}_ENABLED is false")


@asynccontextmanager
async def _serving_on_port(exposition: Exposition, settings: MetricsSettings) -> AsyncIterator[None]:
    """Serve the metrics page on its port. At start-up, not at set-up: threads do not survive a server's fork."""
    with ExitStack() as exits:
        try:
            exits.enter_context(serve_on_port(exposition, settings))
        except SetupError as error:
            # the second worker of a service finds the port taken, and must serve requests all the same
            _logger.warning("otel_fastperf: %s", error)
        yield


@contextmanager
def _detecting(given: Materials) -> Iterator[None]:
    settings = given.settings
    detectors: tuple[BuiltInDetector, ...] = (
        SlowMiddlewares(settings.middleware),
        partial(detect_n_plus_one, settings=settings.database),
        partial(detect_slow_query, settings=settings.database),
        partial(detect_sync_db_on_loop, settings=settings.database),
    )
    with ExitStack() as exits:
        for detector in detectors:
            exits.callback(given.signals.findings.add_detector(detector))
        yield


@contextmanager
def _observing_database(given: Materials) -> Iterator[None]:
    settings, signals, engines = given.settings, given.signals, given.engines
    with ExitStack() as exits:
        on_slow = None
        if settings.explain.enabled:
            on_slow = exits.enter_context(explain_slow_queries(settings.explain, signals))
        exits.enter_context(client_spans_from(settings.database.client_span, engines, signals, given.tracing.provider))
        exits.enter_context(
            instrument_database(
                engines, settings.database, signals, exemplars=settings.metrics.exemplars, on_slow=on_slow
            )
        )
        exits.enter_context(instrument_pool(engines, settings.database, signals))
        yield
