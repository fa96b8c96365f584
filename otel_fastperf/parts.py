"""The parts that `setup_telemetry` installs, one declaration each.

To add a part, write a function that returns its `Part` and name it in `PARTS`.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import ref

from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette

from otel_fastperf.awaiting.sampler import sample_awaits
from otel_fastperf.caches.registry import Caches
from otel_fastperf.detectors.awaited_lock import AwaitedLocks
from otel_fastperf.detectors.frequent_query import FrequentQueries
from otel_fastperf.detectors.large_result import detect_large_result
from otel_fastperf.detectors.lock_wait import LockWaits
from otel_fastperf.detectors.n_plus_one import detect_n_plus_one
from otel_fastperf.detectors.outgoing_calls import CallDetectors
from otel_fastperf.detectors.slow_commit import SlowCommits
from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.detectors.sync_db_on_loop import detect_sync_db_on_loop
from otel_fastperf.errors import SetupError
from otel_fastperf.exposition import Exposition, serve_on_port, serve_when_free
from otel_fastperf.instrumentation.background import instrument_background
from otel_fastperf.instrumentation.cache import instrument_caches
from otel_fastperf.instrumentation.client_constructors import client_constructors_observed
from otel_fastperf.instrumentation.client_span import client_span_description, client_spans_from
from otel_fastperf.instrumentation.clients import clients_description, instrumented_clients
from otel_fastperf.instrumentation.debug_endpoint import DebugEndpoint
from otel_fastperf.instrumentation.exchanges import Requests
from otel_fastperf.instrumentation.explain import explain_slow_queries
from otel_fastperf.instrumentation.graphql_operations import graphql_operations_named
from otel_fastperf.instrumentation.layers import Layers, install_layers
from otel_fastperf.instrumentation.lifespan import on_a_thread
from otel_fastperf.instrumentation.middleware import MiddlewareTimer, SlowMiddlewares
from otel_fastperf.instrumentation.other_metrics import pushed_by_others
from otel_fastperf.instrumentation.outgoing_calls import OutgoingCalls
from otel_fastperf.instrumentation.own_pages import OwnPage
from otel_fastperf.instrumentation.phases import instrument_endpoints
from otel_fastperf.instrumentation.pool import instrument_pool
from otel_fastperf.instrumentation.requests import NewLoop
from otel_fastperf.instrumentation.response_bodies import response_bodies_observed
from otel_fastperf.instrumentation.route_sampling import RouteSampling
from otel_fastperf.instrumentation.server_hooks import ServerHooks
from otel_fastperf.instrumentation.server_span import Source, server_span_description, server_span_from
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.instrumentation.transactions import instrument_transactions
from otel_fastperf.internals.deliveries import Deliveries
from otel_fastperf.internals.held_traces import HeldTraces
from otel_fastperf.internals.operating_system import tells_schedules, untold_memory
from otel_fastperf.logs import correlate_logs
from otel_fastperf.monitors.cache import monitor_caches
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.monitors.loop import monitor_loop
from otel_fastperf.monitors.memory import monitor_memory
from otel_fastperf.monitors.processors import monitor_processors
from otel_fastperf.monitors.runner import Monitor
from otel_fastperf.monitors.threads import monitor_threads
from otel_fastperf.monitors.watchdog import monitor_blocked_loop
from otel_fastperf.report.model import Report
from otel_fastperf.requests.route import has_literal_route
from otel_fastperf.settings import MetricsSettings, Settings, TracesSettings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing import Tracing
from otel_fastperf.tracing.propagators import propagators_set
from otel_fastperf.tracing.provider import our_scope, resource_of
from otel_fastperf.tracing.tracer import LeanTracer
from otel_fastperf.tracing.transport import without_secrets
from otel_fastperf.tracing.watched_calls import calls_watched
from otel_fastperf.workers import Workers, can_be_known

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from otel_fastperf.findings_outlet import BuiltInDetector
    from otel_fastperf.otlp_metrics.pusher import MetricPusher

_logger: Final = logging.getLogger("otel_fastperf")

#: parts that see something without their monitors
_PARTLY_MONITORS: Final = frozenset({"clients", "caches"})

#: what to do if the app has a route at the path of a part's page
_ANOTHER_PATH: Final = {
    "metrics": "set OTEL_FASTPERF_METRICS_PATH to another path, or OTEL_FASTPERF_METRICS_PORT to a separate port",
    "debug": "set OTEL_FASTPERF_DEBUG_PATH to another path",
}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the package: a line of `Telemetry.describe()`, and how to install it.

    Attributes:
        name: What it observes.
        on: Whether it is installed.
        detail: How it is set up, or why it is off.
        installs: Context managers to enter at set-up, in this order. The process keeps them, so they must not keep
            the app.
        on_app: The same for what changes the app itself, which keeps them.
        monitors: Monitors of the process, to run while an event loop runs.
        loop_monitors: Monitors to run on each event loop.
        page: Path of its page in the app, unless the app has a route of its own there.
    """

    name: str
    on: bool
    detail: str
    installs: tuple[AbstractContextManager[object], ...] = ()
    on_app: tuple[AbstractContextManager[object], ...] = ()
    monitors: tuple[Monitor, ...] = ()
    loop_monitors: tuple[Monitor, ...] = ()
    page: str = ""

    def as_served(self, app: Starlette) -> "Part":
        """The part as this app serves it: off if the app, or another package, answers at the path of its page."""
        if not self.page or not has_literal_route(app.routes, self.page):
            return self
        return replace(
            self, on=False, detail=f"the app has its own route {self.page}. Remedy: {_ANOTHER_PATH[self.name]}"
        )

    def without_asyncio(self) -> "Part":
        """The part in a server that runs trio: monitors need asyncio."""
        if not self.on or not (self.monitors or self.loop_monitors):
            return self
        none = replace(self, monitors=(), loop_monitors=())
        if self.name in _PARTLY_MONITORS:
            return replace(none, detail=f"{self.detail}; in part, since the server runs trio")
        return replace(none, on=False, detail="needs asyncio, and the server runs trio")

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
    workers: Workers
    deliveries: Deliveries
    source: Source
    layers: Layers


def layers_of(
    app: Starlette,
    settings: Settings,
    signals: Signals,
    *,
    exposition: Exposition,
    source: Source,
    hooks: ServerHooks,
    diagnose: Callable[[], Report],
    on_new_loop: NewLoop,
) -> Layers:
    """The layers to place into the app's middleware chain.

    Raises:
        SetupError: A setting is for our own SERVER spans, and another library makes those of this app.
    """
    pages = []
    if settings.metrics.enabled and settings.metrics.port is None:
        pages.append(OwnPage(settings.metrics.path, exposition, _ANOTHER_PATH["metrics"]))
    if settings.debug.enabled:
        endpoint = DebugEndpoint(settings.debug, diagnose, signals.guard)
        pages.append(OwnPage(settings.debug.path, endpoint, _ANOTHER_PATH["debug"]))
    return Layers(
        app,
        Requests(
            settings.requests,
            signals,
            exemplars=settings.metrics.exemplars,
            first_byte=settings.metrics.time_to_first_byte,
            sampling=_sampling(settings.traces.route_ratios, signals, source),
            held=_held(settings.traces, signals, source),
            hooks=hooks,
        ),
        pages=pages,
        timer=MiddlewareTimer(signals) if settings.middleware.enabled else None,
        on_new_loop=on_new_loop,
        without_agents=settings.server_span == "own",
    )


def _sampling(ratios: Mapping[str, float], signals: Signals, source: Source) -> RouteSampling | None:
    if not ratios:
        return None
    _check_own("traces.route_ratios", source)
    return RouteSampling(ratios, signals)


def _held(settings: TracesSettings, signals: Signals, source: Source) -> HeldTraces | None:
    if not settings.keep:
        return None
    _check_own("traces.keep", source)
    if not isinstance(signals.tracer, LeanTracer):
        message = (
            "traces.keep has no effect, because the tracer provider is another library's, whose spans cannot be held"
            f" ({type(signals.tracer).__name__}). Remedy: remove the setting, or let otel_fastperf make the provider."
        )
        raise SetupError(message)
    metrics = signals.metrics

    def count(reason: str, lost: int) -> None:
        metrics.traces_kept.child(reason).inc()
        metrics.kept_spans_lost.inc(lost)

    return HeldTraces(settings.keep, settings.keep_slow, count)


def _check_own(setting: str, source: Source) -> None:
    if source != "own":
        message = (
            f"{setting} has no effect on SERVER spans that otel_fastperf does not make: this app's are {source!r}."
            " Remedy: leave server_span at 'own', and do not apply another instrumentation to the app, or remove the"
            " setting."
        )
        raise SetupError(message)


def _traces(given: Materials) -> Part:
    # the tracer provider is in place already: every other part needs its tracer
    keep = given.settings.traces.keep
    kept = f"; what the sampler drops is kept for: {', '.join(keep)}" if keep else ""
    return Part("traces", on=True, detail=given.tracing.description + kept)


def _metrics(given: Materials) -> Part:
    settings = given.settings.metrics
    if not settings.enabled:
        return _off("metrics")
    token = ", bearer token required" if settings.bearer_token is not None else ""
    closed = (closing(given.exposition),)
    if settings.port is None:
        return Part("metrics", on=True, detail=f"at {settings.path}{token}", installs=closed, page=settings.path)
    return Part(
        "metrics",
        on=True,
        detail=f"at http://{settings.host}:{settings.port}{settings.path} once the app has started{token}",
        installs=closed,
        monitors=(partial(_serving_on_port, given.exposition, given.workers, settings),),
    )


def _metrics_export(given: Materials) -> Part:
    settings, signals = given.settings, given.signals
    if "otlp" not in settings.metrics.exporter:
        return Part("metrics export", on=False, detail="OTEL_METRICS_EXPORTER does not contain otlp")
    # the SDK's metrics take memory, and most services are scraped
    from otel_fastperf.otlp_metrics.points import Readings
    from otel_fastperf.otlp_metrics.pusher import export_metrics, metrics_url

    url = without_secrets(metrics_url(settings))
    seconds = settings.metrics.export_interval_ms / 1000
    # what is in the process does not keep the app
    app = ref(given.app)

    def left_out() -> frozenset[str]:
        return frozenset() if (observed := app()) is None else pushed_by_others(observed)

    def readings() -> "Callable[[], MetricsData]":
        return Readings(
            signals.metrics,
            resource_of(given.tracing.provider, settings),
            our_scope(),
            lambda error: signals.guard.failed("exposition", error),
            delta=settings.metrics.temporality != "cumulative",
            left_out=left_out,
        ).read

    @contextmanager
    def flushed(pushing: "AbstractContextManager[MetricPusher]") -> Iterator[None]:
        with pushing as pusher, given.deliveries.joined(pusher.flush):
            yield

    count_failure = signals.metrics.telemetry_errors.child("metrics_export").inc
    return Part(
        "metrics export",
        on=True,
        detail=f"OTLP {settings.metrics.protocol} to {url} every {seconds:g} s",
        installs=(flushed(export_metrics(settings, readings, count_failure)),),
    )


def _logs_export(given: Materials) -> Part:
    settings = given.settings
    if "otlp" not in settings.logs.exporter:
        return Part("logs export", on=False, detail="OTEL_LOGS_EXPORTER does not contain otlp")
    there = next((each for each in logging.getLogger().handlers if type(each).__name__ == "LoggingHandler"), None)
    if there is not None:
        return Part("logs export", on=False, detail="the root logger has a handler of OpenTelemetry already")
    from otel_fastperf.otlp_logs.pipeline import logs_url

    url = without_secrets(logs_url(settings))
    detail = f"OTLP {settings.logs.protocol} to {url}, with findings as events"
    return Part("logs export", on=True, detail=detail, installs=(_exporting_logs(given),))


@contextmanager
def _exporting_logs(given: Materials) -> Iterator[None]:
    # the SDK's logs take memory, and most services export none
    from otel_fastperf.otlp_logs.events import FindingEvents
    from otel_fastperf.otlp_logs.handler import root_logged
    from otel_fastperf.otlp_logs.pipeline import open_pipeline

    settings, signals, provider = given.settings, given.signals, given.tracing.provider
    count_lost = signals.metrics.telemetry_errors.child("logs_export").inc
    with open_pipeline(settings, lambda: resource_of(provider, settings), count_lost) as pipeline, ExitStack() as exits:
        exits.enter_context(given.deliveries.joined(pipeline.flush))
        exits.callback(signals.metrics.on_refresh(pipeline.settle))
        exits.callback(signals.findings.add_finding_listener(FindingEvents(pipeline.emit)))
        exits.enter_context(root_logged(pipeline.emit, settings.exceptions, signals.guard))
        yield


def _findings(given: Materials) -> Part:
    if not given.settings.findings.enabled:
        return _off("findings")
    disabled = given.settings.findings.disabled
    detail = f"all kinds but {', '.join(disabled)}" if disabled else "all kinds"
    return Part("findings", on=True, detail=detail, installs=(_detecting(given.settings, given.signals),))


def _requests(given: Materials) -> Part:
    app, settings, signals = given.app, given.settings, given.signals
    return Part(
        "requests",
        on=True,
        detail=server_span_description(given.source, app),
        installs=(propagators_set(settings.propagators), instrument_background(signals), instrument_endpoints(signals)),
        on_app=(
            server_span_from(given.source, app, settings, given.tracing.provider),
            install_layers(app, given.layers),
        ),
    )


def _graphql(given: Materials) -> Part:
    if not given.settings.requests.graphql_operations:
        return Part("graphql", on=False, detail="OTEL_FASTPERF_REQUESTS_GRAPHQL_OPERATIONS is false")
    return Part(
        "graphql",
        on=True,
        detail="strawberry's operations in routes",
        monitors=(partial(graphql_operations_named, given.signals),),
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
    observing = _observing_database(given.settings, given.signals, given.engines, given.tracing.provider)
    return Part("database", on=True, detail=detail, installs=(observing,))


def _clients(given: Materials) -> Part:
    settings, signals = given.settings.clients, given.signals
    if not settings.enabled:
        return _off("clients")
    exemplars, query_values = given.settings.metrics.exemplars, settings.query_values
    calls = OutgoingCalls(signals, settings, exemplars=exemplars, query_values=query_values)
    return Part(
        "clients",
        on=True,
        detail=clients_description(settings),
        installs=(
            calls_watched(given.tracing.provider, calls.begins),
            instrumented_clients(settings, signals, given.tracing.provider),
        ),
        monitors=(
            partial(client_constructors_observed, signals),
            partial(response_bodies_observed, calls, signals),
        ),
    )


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


def _awaiting(given: Materials) -> Part:
    settings = given.settings.awaiting
    if not settings.enabled:
        return _off("awaiting")
    hidden = "" if tells_schedules() else "; whether a thread computes or waits is inferred"
    detail = f"of requests that take longer than {settings.after:g} s{hidden}"
    return Part("awaiting", on=True, detail=detail, installs=(sample_awaits(settings, given.signals),))


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
    return Part("thread pool", on=True, detail="anyio's default limiter", loop_monitors=(monitor,))


def _memory(given: Materials) -> Part:
    settings, signals = given.settings.memory, given.signals
    if not settings.enabled:
        return _off("memory")
    untold = untold_memory()
    told = [each for each in ("RSS", "USS", "cgroup", "garbage collector") if each not in untold]
    return Part(
        "memory",
        on=True,
        detail=", ".join(told) + (f"; not {', '.join(untold)}, which this system does not tell" if untold else ""),
        monitors=(partial(monitor_memory, settings, signals), partial(monitor_gc, settings, signals)),
    )


def _event_loop(given: Materials) -> Part:
    settings, signals = given.settings.loop, given.signals
    if not settings.enabled:
        return _off("event loop", "loop")
    # not an error, so without a remedy: what blocks the loop is found all the same
    unknown = "" if tells_schedules() else "; why it is blocked is inferred, since this system hides threads' schedules"
    return Part(
        "event loop",
        on=True,
        detail=f"heartbeat every {settings.interval:g} s{unknown}",
        monitors=(partial(monitor_processors, signals),),
        loop_monitors=(partial(monitor_loop, settings, signals), partial(monitor_blocked_loop, settings, signals)),
    )


def _debug(given: Materials) -> Part:
    settings = given.settings.debug
    if not settings.enabled:
        return _off("debug")
    readers = "for this machine only" if settings.token is None else "with bearer token"
    return Part("debug", on=True, detail=f"at {settings.path} {readers}", page=settings.path)


def _workers(given: Materials) -> Part:
    if not given.settings.workers.enabled:
        return _off("workers")
    if not can_be_known():
        detail = (
            "needs Linux and its /proc: of several processes each answers for itself. Remedy: run one process,"
            " or set OTEL_METRICS_EXPORTER=otlp, with which each pushes its own"
        )
        return Part("workers", on=False, detail=detail)
    detail = "one answer for all processes that share a listening socket"
    return Part("workers", on=True, detail=detail, monitors=(partial(_among_siblings, given.workers),))


#: Order of installation. The event loop comes after the other monitors: their start-up must not count as blocking.
PARTS: Final[tuple[Callable[[Materials], Part], ...]] = (
    _traces,
    # before the metrics, whose port one of the workers serves
    _workers,
    _metrics,
    _findings,
    _requests,
    _graphql,
    _middleware,
    _awaiting,
    _database,
    _clients,
    _caches,
    _logs,
    _thread_pool,
    _memory,
    _event_loop,
    _debug,
    # taken out first, so that its last push has all
    _logs_export,
    _metrics_export,
)


def _off(name: str, group: str = "") -> Part:
    """A part that is switched off by its group's `enabled`."""
    return Part(name, on=False, detail=f"OTEL_FASTPERF_{(group or name).upper()}_ENABLED is false")


@asynccontextmanager
async def _among_siblings(workers: Workers) -> AsyncIterator[None]:
    """Join the other workers. At start-up, not at set-up: a server may fork in between."""
    await on_a_thread(workers.join)
    yield


@asynccontextmanager
async def _serving_on_port(exposition: Exposition, workers: Workers, settings: MetricsSettings) -> AsyncIterator[None]:
    """Serve the metrics page on its port. At start-up, not at set-up: threads do not survive a server's fork."""
    exits = ExitStack()
    try:
        exits.enter_context(serve_on_port(exposition, settings))
    except SetupError as error:
        if workers.is_member:
            # a sibling serves it
            exits.enter_context(serve_when_free(exposition, settings))
        else:
            _logger.warning("otel_fastperf: %s", error)
    try:
        yield
    finally:
        await on_a_thread(exits.close)


@contextmanager
def _detecting(settings: Settings, signals: Signals) -> Iterator[None]:
    findings = signals.findings
    of_statements: tuple[BuiltInDetector, ...] = (
        partial(detect_n_plus_one, settings=settings.database),
        # before slow queries, because it explains some of them
        LockWaits(settings.database),
        partial(detect_slow_query, settings=settings.database),
        partial(detect_large_result, settings=settings.database),
        partial(detect_sync_db_on_loop, settings=settings.database, homes={}),
    )
    with ExitStack() as exits:
        exits.callback(findings.add_detector(SlowMiddlewares(settings.middleware)))
        # a request without statements counts too: not every request of its route is slow
        exits.callback(findings.add_detector(FrequentQueries(settings.database)))
        exits.callback(findings.add_detector(CallDetectors(settings.clients)))
        exits.callback(findings.add_detector(AwaitedLocks(settings.database)))
        # a transaction may hold what a driver's own cursor wrote, which is no statement of the request
        exits.callback(findings.add_detector(SlowCommits(settings.database)))
        for detector in of_statements:
            exits.callback(findings.add_statement_detector(detector))
        yield


@contextmanager
def _observing_database(
    settings: Settings, signals: Signals, engines: "Sequence[Engine | AsyncEngine] | None", provider: TracerProvider
) -> Iterator[None]:
    with ExitStack() as exits:
        on_slow = None
        if settings.explain.enabled:
            on_slow = exits.enter_context(explain_slow_queries(settings.explain, signals))
        exits.enter_context(client_spans_from(settings.database.client_span, engines, signals, provider))
        exits.enter_context(
            instrument_database(
                engines, settings.database, signals, exemplars=settings.metrics.exemplars, on_slow=on_slow
            )
        )
        exits.enter_context(instrument_transactions(engines, settings.database, signals))
        exits.enter_context(instrument_pool(engines, settings.database, signals))
        yield
