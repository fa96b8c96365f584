"""`setup_telemetry` and the `Telemetry` handle: what is switched on, in which order, and how it is undone.

Two lifetimes. The *instrumentation* is installed by `setup_telemetry` and is an ExitStack: undone in reverse, also when
set-up fails half-way. The *monitors* need a running event loop: they live in the app's lifespan, or, where no lifespan
runs, from the first request on.
"""

import asyncio
import logging
import os
import platform
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator
from starlette.applications import Starlette

from otel_fastperf.caches.registry import Caches
from otel_fastperf.detectors.n_plus_one import detect_n_plus_one
from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.detectors.sync_db_on_loop import detect_sync_db_on_loop
from otel_fastperf.errors import SetupError
from otel_fastperf.exposition import Exposition, serve_on_port
from otel_fastperf.findings import Finding
from otel_fastperf.findings_outlet import Detector, Findings
from otel_fastperf.instrumentation.background import instrument_background
from otel_fastperf.instrumentation.cache import instrument_caches
from otel_fastperf.instrumentation.debug_endpoint import DebugEndpoint
from otel_fastperf.instrumentation.explain import explain_slow_queries
from otel_fastperf.instrumentation.layers import Layers, install_layers
from otel_fastperf.instrumentation.lifespan import is_inside_lifespan, on_a_thread, wrapped_lifespan
from otel_fastperf.instrumentation.middleware import Boundary, MiddlewareTimer, SlowMiddlewares
from otel_fastperf.instrumentation.other_telemetry import native_config
from otel_fastperf.instrumentation.own_pages import OwnPage, OwnPages
from otel_fastperf.instrumentation.phases import instrument_endpoints
from otel_fastperf.instrumentation.pool import instrument_pool
from otel_fastperf.instrumentation.requests import RequestLayer, Requests, RouterLayer
from otel_fastperf.instrumentation.server_span import DESCRIPTION, chosen_source, server_span_from
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.logs import correlate_logs
from otel_fastperf.memory.allocations import AllocationReport, allocations
from otel_fastperf.metrics import Metrics
from otel_fastperf.monitors.cache import monitor_caches
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.monitors.loop import monitor_loop
from otel_fastperf.monitors.memory import monitor_memory
from otel_fastperf.monitors.threads import monitor_threads
from otel_fastperf.monitors.watchdog import monitor_blocked_loop
from otel_fastperf.report.diagnose import diagnose
from otel_fastperf.report.model import Report
from otel_fastperf.settings import DebugSettings, Settings, propagators_of_environment
from otel_fastperf.signals import Signals
from otel_fastperf.tracing import Tracing, open_tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_C = TypeVar("_C")

_logger: Final = logging.getLogger("otel_fastperf")

#: most time that a request waits for the monitors, where it waits for them, in seconds
_START_TIMEOUT: Final = 1.0

#: where an app carries its handle
_STATE_KEY: Final = "otel_fastperf_telemetry"

#: whose versions one has to know
_PACKAGES: Final = ("otel-fastperf", "fastapi", "sqlalchemy", "opentelemetry-sdk")


@dataclass(frozen=True, slots=True)
class Part:
    """One line of `Telemetry.describe()`: what it is, whether it is on, and which one or why not."""

    name: str
    on: bool
    detail: str

    def __str__(self) -> str:
        """`requests: on, own SERVER span`."""
        return f"{self.name}: {'on' if self.on else 'off'}, {self.detail}"


def setup_telemetry(
    app: Starlette,
    *,
    engines: "Engine | AsyncEngine | Sequence[Engine | AsyncEngine] | None" = None,
    settings: Settings | None = None,
) -> "Telemetry":
    """Trace and measure a FastAPI app. One call: after `app = FastAPI()`, at the end, in a factory, in the lifespan.

    Args:
        app: The FastAPI (or Starlette) app itself, not a middleware around it.
        engines: The SQLAlchemy engines to observe; None observes every engine of the process, made before or after.
        settings: None reads the environment (`OTEL_*`, `OTEL_FASTPERF_*`).

    Returns:
        The handle: what is on (`describe()`), finished spans, `shutdown()`. A second call for the same app returns the
        first one's handle and instruments nothing again.

    Raises:
        SettingsError: Settings are wrong; the message lists each with its cure.
        SetupError: The app, an engine or an installed package does not fit; the message names the cure.
    """
    _check_app(app)
    existing = telemetry_of(app)
    if existing is not None:
        if settings is not None or engines is not None:
            _logger.warning(
                "otel_fastperf: setup_telemetry was called again for an app that has telemetry; the first call's"
                " settings stay. Cure: call it once, or call shutdown() on the first handle before."
            )
        return existing
    telemetry = Telemetry(app, _checked_engines(engines), Settings() if settings is None else settings)
    telemetry.start()
    return telemetry


def telemetry_of(app: object) -> "Telemetry | None":
    """The handle that an app carries, if `setup_telemetry` was called for it."""
    found = getattr(getattr(app, "state", None), _STATE_KEY, None)
    return found if isinstance(found, Telemetry) else None


class Telemetry:
    """What `setup_telemetry` returns; do not make one yourself.

    Usable as a context manager, sync and async: leaving it is `shutdown()`.
    """

    def __init__(self, app: Starlette, engines: "list[Engine | AsyncEngine] | None", settings: Settings) -> None:
        """Nothing is installed before `start()`."""
        self.settings = settings
        self.metrics = Metrics(max_series=settings.metrics.max_series)
        self._app = app
        self._engines = engines
        self._guard = Guard(lambda part: self.metrics.telemetry_errors.child(part).inc())
        self._findings = Findings(settings.findings, self.metrics, self._guard)
        self._caches = Caches()
        self._made_at = time.time()
        self._instrumentation = ExitStack()
        self._lifespan = ExitStack()
        self._lock = threading.Lock()
        self._open = False
        self._parts: list[Part] = []
        self._tracing: Tracing | None = None
        self._layers: Layers | None = None
        self._monitors: _Monitors | None = None

    def describe(self) -> str:
        """What is on, what is off, and why: one line each."""
        return "\n".join(str(part) for part in self._parts)

    def spans(self) -> "tuple[ReadableSpan, ...]":
        """Finished spans that are kept in this process, oldest first; none when they are exported."""
        store = self._tracing.store if self._tracing is not None else None
        return () if store is None else store.spans()

    def findings(self) -> tuple[Finding, ...]:
        """The bottlenecks that were seen so far, merged, worst first; kept over `shutdown()`."""
        return self._findings.log.findings()

    def diagnose(self) -> Report:
        """Why it is slow: where each route's time went, how this process is, the bottlenecks that were seen.

        Since set-up, of this process alone. Reads every metric, and memory figures from the kernel, which takes some
        30 ms for 50 routes: an `async def` endpoint should call it by `asyncio.to_thread`.
        """
        name = self._tracing.service_name if self._tracing is not None else self.settings.service_name
        return diagnose(
            self.metrics.samples(lambda error: self._guard.failed("metrics_refresh", error)),
            self.findings(),
            service=name or "",
            versions={"python": platform.python_version(), **{name: installed_version(name) for name in _PACKAGES}},
            now=time.time(),
            pid=os.getpid(),
            started=self._made_at,
        )

    def add_detector(self, detector: Detector) -> Callable[[], None]:
        """Have a detector of your own look at every request that has ended; returns the call that undoes this.

        It is called as `detector(record)` on the event loop, yields a `Finding` for each bottleneck it sees, and must
        neither change nor keep the record. One that raises is counted, and costs its findings only.
        """
        return self._findings.add_detector(detector)

    def observe_cache(self, cache: _C, name: str | None = None) -> _C:
        """Measure a cache: its hits, misses, evictions and size; returns it. See `caches.Caches.observe`.

        Functions with `functools.lru_cache` are found by themselves. Also known: caches and cached functions of
        cachetools and aiocache, backends of fastapi-cache, clients of redis.

        Raises:
            SetupError: It is no cache that is known.
        """
        return self._caches.observe(cache, name)

    def allocations(self, seconds: float = 10.0, most: int = 20, *, frames: int = 1) -> AllocationReport:
        """Trace all allocations of the process for so many seconds; see `allocations.allocations`. Blocks meanwhile.

        Raises:
            AllocationsError: They are being traced already, or an argument is out of its range.
        """
        return allocations(seconds, most, frames=frames)

    def flush(self, timeout: float = 2.0) -> bool:
        """Export what has finished. Blocks for up to `timeout` seconds; True when all of it was settled."""
        return self._tracing is None or self._tracing.flush(timeout)

    def start(self) -> None:
        """Install everything. Called by `setup_telemetry`, once."""
        if self.settings.sdk_disabled:
            self._parts = [Part("telemetry", on=False, detail="OTEL_SDK_DISABLED is true")]
            _logger.info("otel_fastperf is off: OTEL_SDK_DISABLED is true")
            return
        self._resume()
        setattr(self._app.state, _STATE_KEY, self)
        self._lifespan.enter_context(wrapped_lifespan(self._app, self._around_lifespan))
        if is_inside_lifespan(self._app):
            self._start_inside_lifespan()
        _logger.info("otel_fastperf: %s", "; ".join(str(part) for part in self._parts))

    def shutdown(self) -> None:
        """Undo everything, in reverse: threads, listeners, layers, provider. At most `traces.exit_timeout` seconds."""
        self._close()
        self._lifespan.close()
        if telemetry_of(self._app) is self:
            delattr(self._app.state, _STATE_KEY)

    def __enter__(self) -> Self:
        """The handle itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """`shutdown()`."""
        self.shutdown()

    async def __aenter__(self) -> Self:
        """The handle itself."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """`shutdown()`, on a thread: it may wait for the collector."""
        await on_a_thread(self.shutdown)

    def _resume(self) -> None:
        """Install the instrumentation; again when the app is started anew after a lifespan has ended."""
        with self._lock:
            if self._open:
                return
            with ExitStack() as stack:
                self._parts = list(self._install(stack))
                self._instrumentation = stack.pop_all()
            self._open = True

    def _close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                self._instrumentation.close()

    def _install(self, stack: ExitStack) -> Iterator[Part]:
        settings, app = self.settings, self._app
        source = chosen_source(app, settings.server_span)
        given = (native_config(app) or {}).get("tracer_provider")
        # entered first, so that it is flushed and closed last
        self._tracing = tracing = stack.enter_context(open_tracing(settings, self.metrics, self._guard, given=given))
        yield Part("traces", on=True, detail=tracing.description)

        signals = Signals(tracing.tracer, self.metrics, self._findings, self._guard)
        for detector in _detectors(settings):
            stack.callback(self._findings.add_detector(detector))
        exposition = Exposition(self.metrics, settings.metrics, self._guard)
        stack.callback(exposition.close)
        self._monitors = monitors = _Monitors(settings, signals, exposition, self._caches)
        stack.callback(monitors.stop)

        stack.enter_context(_propagators(settings))
        stack.enter_context(server_span_from(source, app, settings, tracing.provider))
        stack.enter_context(instrument_background(signals))
        stack.enter_context(instrument_endpoints(signals))
        self._layers = self._new_layers(stack, signals, exposition)
        stack.enter_context(install_layers(app, self._layers))
        yield Part("requests", on=True, detail=DESCRIPTION[source])
        yield self._install_database(stack, signals)
        if settings.cache.enabled:
            stack.enter_context(instrument_caches(self._caches, signals))
        yield self._install_logs(stack)
        yield from monitors.parts()
        yield _debug_part(settings.debug)

        self.metrics.build_info.child(*map(installed_version, _PACKAGES), source).set(1)

    def _new_layers(self, stack: ExitStack, signals: Signals, exposition: Exposition) -> Layers:
        settings, app = self.settings, self._app
        timer = MiddlewareTimer(signals)
        exemplars = settings.metrics.exemplars
        requests = Requests(settings.requests, signals, exemplars=exemplars, middlewares=lambda: timer.middlewares)
        pages = tuple(self._own_pages(signals, exposition))

        between: dict[str, Any] = {}
        if settings.middleware.enabled:
            between = {"between": timer.place, "boundary": partial(Boundary, signals)}
            stack.callback(timer.remove)

        def outermost(inner: Any) -> OwnPages:
            return OwnPages(inner, app, pages)

        def request(inner: Any, *, join: bool) -> RequestLayer:
            return RequestLayer(inner, requests, join=join, on_new_loop=self._on_new_loop)

        return Layers(
            app,
            outermost=outermost,
            request=request,
            router=lambda inner: RouterLayer(inner, signals),
            **between,
        )

    def _own_pages(self, signals: Signals, exposition: Exposition) -> Iterator[OwnPage]:
        metrics, debug = self.settings.metrics, self.settings.debug
        if metrics.enabled and metrics.port is None:
            cure = "set OTEL_FASTPERF_METRICS_PATH to another path, or OTEL_FASTPERF_METRICS_PORT to a port of its own"
            yield OwnPage(metrics.path, exposition, cure)
        if debug.enabled:
            endpoint = DebugEndpoint(debug, self.diagnose, signals.guard)
            yield OwnPage(debug.path, endpoint, "set OTEL_FASTPERF_DEBUG_PATH to another path")

    def _install_database(self, stack: ExitStack, signals: Signals) -> Part:
        settings, engines = self.settings, self._engines
        if not settings.database.enabled:
            return Part("database", on=False, detail="OTEL_FASTPERF_DATABASE_ENABLED is false")
        exemplars = settings.metrics.exemplars
        on_slow = None
        if settings.explain.enabled:
            on_slow = stack.enter_context(explain_slow_queries(settings.explain, signals))
        stack.enter_context(
            instrument_database(engines, settings.database, signals, exemplars=exemplars, on_slow=on_slow)
        )
        stack.enter_context(instrument_pool(engines, settings.database, signals))
        which = "every SQLAlchemy engine of the process" if engines is None else f"{len(engines)} engine(s) given"
        return Part("database", on=True, detail=which + (", slow queries explained" if on_slow is not None else ""))

    def _install_logs(self, stack: ExitStack) -> Part:
        if not self.settings.logs.enabled:
            return Part("logs", on=False, detail="OTEL_FASTPERF_LOGS_ENABLED is false")
        stack.enter_context(correlate_logs(self._guard))
        return Part("logs", on=True, detail="trace_id, span_id and route in every record")

    @asynccontextmanager
    async def _around_lifespan(self, lifespan: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """Monitors run between the app's start-up and its shutdown; then everything is flushed and undone."""
        self._resume()
        assert self._layers is not None  # noqa: S101 - _resume has made them
        assert self._monitors is not None  # noqa: S101
        self._layers.make_outermost()
        try:
            async with lifespan as state, self._monitors.running():
                yield state
        finally:
            await on_a_thread(self._close)

    def _start_inside_lifespan(self) -> None:
        assert self._monitors is not None  # noqa: S101 - _resume has made them
        self._monitors.start_in_running_loop(after=0.0)
        detail = (
            "set up inside a running lifespan, whose end cannot be observed: spans of the last moments before SIGTERM"
            " may be lost. Cure: call setup_telemetry right after app = FastAPI(), or telemetry.shutdown() after the"
            " yield"
        )
        self._parts.append(Part("delivery at exit", on=False, detail=detail))
        _logger.warning("otel_fastperf: %s.", detail)

    def _on_new_loop(self) -> Awaitable[object] | None:
        """A request has come on another event loop than before; unless a lifespan runs there, start to watch it."""
        if self._monitors is None:
            return None
        after = self.settings.loop.start_after
        started = self._monitors.start_in_running_loop(after=after)
        return asyncio.wait_for(started.wait(), _START_TIMEOUT) if started is not None and not after else None


class _Monitors:
    """What runs on the clock, and the metrics port: in the lifespan, or, where none runs, from the first request on."""

    def __init__(self, settings: Settings, signals: Signals, exposition: Exposition, caches: Caches) -> None:
        self._caches = caches
        self._settings = settings
        self._signals = signals
        self._exposition = exposition
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] = lambda: None
        self._stopped = False

    def parts(self) -> Iterator[Part]:
        """What there is to say about them."""
        settings = self._settings
        token = ", bearer token asked for" if settings.metrics.bearer_token is not None else ""
        if not settings.metrics.enabled:
            yield Part("metrics", on=False, detail="OTEL_FASTPERF_METRICS_ENABLED is false")
        elif settings.metrics.port is None:
            yield Part("metrics", on=True, detail=f"at {settings.metrics.path}{token}")
        else:
            url = f"http://{settings.metrics.host}:{settings.metrics.port}{settings.metrics.path}"
            yield Part("metrics", on=True, detail=f"at {url} from start-up on{token}")
        yield Part("event loop", on=settings.loop.enabled, detail=f"heartbeat every {settings.loop.interval:g} s")
        yield Part("thread pool", on=settings.threads.enabled, detail="anyio's default limiter")
        yield Part("memory", on=settings.memory.enabled, detail="RSS, USS, cgroup, garbage collector")
        yield Part(
            "caches", on=settings.cache.enabled, detail="functions with lru_cache, and what observe_cache was given"
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all that are on, on the running loop. One that cannot start is counted and left out."""
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            self._serve_on_port(stack)
            for monitor in self._enabled():
                try:
                    await stack.enter_async_context(monitor)
                except Exception as error:  # noqa: BLE001 - the app starts without this one
                    self._signals.guard.failed("monitors", error)
            yield
        self._loop = None

    def start_in_running_loop(self, *, after: float) -> asyncio.Event | None:
        """Run all in a task of the running loop, from so many seconds on; what is set then. None if they run there."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return None
        self._loop = loop
        started, done = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            async with self.running():
                started.set()
                await done.wait()

        def start() -> None:
            if not self._stopped:
                # held here, since the loop itself keeps only weak references to its tasks
                task = loop.create_task(run(), name="otel_fastperf monitors")
                self._stop = lambda: task.done() or loop.call_soon_threadsafe(done.set)

        loop.call_later(after, start)
        return started

    def stop(self) -> None:
        """End the task that `start_in_running_loop` has started. From any thread."""
        self._stopped = True
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self._stop()

    def _enabled(self) -> Iterator[AbstractAsyncContextManager[None]]:
        settings, signals = self._settings, self._signals
        if settings.loop.enabled:
            yield monitor_loop(settings.loop, signals)
        if settings.threads.enabled:
            yield monitor_threads(settings.threads, signals)
        if settings.memory.enabled:
            yield monitor_memory(settings.memory, signals)
            yield monitor_gc(settings.memory, signals)
        if settings.cache.enabled:
            yield monitor_caches(self._caches, settings.cache, signals)
        if settings.loop.enabled:
            # the last one: what the others do when they start is not the app's
            yield monitor_blocked_loop(settings.loop, signals)

    def _serve_on_port(self, stack: AsyncExitStack) -> None:
        # here, and not at set-up: a server that forks its workers after set-up would leave them a socket and no thread
        settings = self._settings.metrics
        if not settings.enabled or settings.port is None:
            return
        try:
            stack.enter_context(serve_on_port(self._exposition, settings))
        except SetupError as error:
            # the second worker of a service finds the port taken: it must serve requests all the same
            _logger.warning("otel_fastperf: %s", error)


@contextmanager
def _propagators(settings: Settings) -> Iterator[None]:
    """The API reads OTEL_PROPAGATORS by itself; only an argument has to be put into force, and taken back."""
    if settings.propagators == propagators_of_environment():
        yield
        return
    before = propagate.get_global_textmap()
    chosen = [
        point for name in settings.propagators for point in entry_points(group="opentelemetry_propagator", name=name)
    ]
    propagate.set_global_textmap(CompositePropagator([point.load()() for point in chosen]))
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


def _debug_part(settings: DebugSettings) -> Part:
    if not settings.enabled:
        return Part("debug", on=False, detail="OTEL_FASTPERF_DEBUG_ENABLED is false")
    who = "for this machine only" if settings.token is None else "with bearer token"
    return Part("debug", on=True, detail=f"at {settings.path} {who}")


def _detectors(settings: Settings) -> Iterator[Detector]:
    """What looks at each request that has ended."""
    yield SlowMiddlewares(settings.middleware)
    yield partial(detect_n_plus_one, settings=settings.database)
    yield partial(detect_slow_query, settings=settings.database)
    yield partial(detect_sync_db_on_loop, settings=settings.database)


def _check_app(app: object) -> None:
    if isinstance(app, Starlette):
        return
    inner = getattr(app, "app", None)
    hint = f" It wraps one: pass that ({type(app).__name__}.app)." if isinstance(inner, Starlette) else ""
    got = f"{type(app).__module__}.{type(app).__qualname__}"
    message = (
        f"setup_telemetry(app) needs the FastAPI app itself, and got {got}.{hint}"
        " Cure: call setup_telemetry(app) right after app = FastAPI(), before the app is wrapped."
    )
    raise SetupError(message)


def _checked_engines(engines: Any) -> "list[Engine | AsyncEngine] | None":
    if engines is None:
        return None
    given = list(engines) if isinstance(engines, list | tuple | set | frozenset) else [engines]
    for engine in given:
        if not hasattr(engine, "dialect") or not hasattr(engine, "url"):
            message = (
                f"engines= takes SQLAlchemy engines (Engine or AsyncEngine), and got {type(engine).__qualname__}."
                " Cure: pass what create_engine or create_async_engine returned, or leave engines out to observe all."
            )
            raise SetupError(message)
    return given
