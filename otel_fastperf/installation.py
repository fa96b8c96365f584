"""What is installed for one app, and for how long.

There are two lifetimes. The *parts* are installed by `setup_telemetry` through ExitStacks: undone in reverse order,
also when set-up fails half-way. The *monitors* need a running event loop: they live as long as the app's lifespan, or,
if no lifespan runs, from the first request on.

Parts are in two places: in the app, and in its process. What is in the process does not keep the app, so an app that
nobody uses any more is freed without `shutdown()`, and then what it has in the process is removed.
"""

import asyncio
import atexit
import logging
import sys
import threading
from _thread import start_new_thread
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import finalize

from opentelemetry import trace
from opentelemetry.semconv.attributes.service_attributes import SERVICE_VERSION
from starlette.applications import Starlette

from otel_fastperf.caches.registry import Caches
from otel_fastperf.exposition import Exposition
from otel_fastperf.findings_outlet import Findings
from otel_fastperf.instrumentation.clients import missing_instrumentations
from otel_fastperf.instrumentation.lifespan import (
    at_end_of_running_lifespan,
    is_inside_lifespan,
    on_a_thread,
    wrapped_lifespan,
)
from otel_fastperf.instrumentation.other_telemetry import is_contrib_applied, native_config
from otel_fastperf.instrumentation.server_hooks import ServerHooks
from otel_fastperf.instrumentation.server_span import chosen_source
from otel_fastperf.instrumentation.start_up import TracedStartUp
from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.deliveries import Deliveries
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.internals.waiting import running_loop
from otel_fastperf.metrics import Metrics
from otel_fastperf.monitors.runner import MonitorRunner
from otel_fastperf.parts import PARTS, Materials, Part, layers_of
from otel_fastperf.report.model import Report
from otel_fastperf.requests.awaits import AwaitsOfRoutes
from otel_fastperf.requests.recent import RecentRequests
from otel_fastperf.service import PACKAGES, Known, WholeService
from otel_fastperf.settings import Settings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing import Tracing, open_tracing
from otel_fastperf.tracing.provider import resource_of
from otel_fastperf.tracing.tracer import LeanTracer

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_logger: Final = logging.getLogger("otel_fastperf")

_DAPHNE: Final = "daphne.server"
#: maximum time in seconds that a request waits for the monitors to start
_START_TIMEOUT: Final = 1.0


class _InProcess:
    """What one app has in its process. Refers to nothing that refers to the app."""

    def __init__(self, settings: Settings, metrics: Metrics, guard: Guard) -> None:
        self.findings: Findings = Findings(settings.findings, metrics, guard)
        self.backlog: Backlog = Backlog(lambda error: guard.failed("backlog", error))
        self.awaits: AwaitsOfRoutes = AwaitsOfRoutes()
        self.recent: RecentRequests = RecentRequests()
        self.tracing: Tracing | None = None
        self.exits: ExitStack = ExitStack()
        self._settings = settings
        known = Known(metrics=metrics, findings=self.findings, awaits=self.awaits, recent=self.recent)
        self.service: WholeService = WholeService(known, settings, guard, self._name, self._uninstrumented)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Remove it. Further calls do nothing."""
        with self._lock:
            exits, self.exits = self.exits, ExitStack()
            self.backlog.stop()
            self.service.last_words()
            exits.close()
            self.service.workers.leave()

    def close_soon(self) -> None:
        """Remove it on a thread. Called by the garbage collector, so it may wait for nothing."""
        with suppress(RuntimeError):  # the interpreter ends, and `atexit` delivers
            thread = threading.Thread(target=self.close, name="otel_fastperf-shutdown", daemon=True)
            # `start` waits for locks that the thread which collects may hold
            start_new_thread(thread.start, ())

    def _uninstrumented(self) -> Mapping[str, str]:
        return {} if self._settings.sdk_disabled else missing_instrumentations(self._settings.clients)

    def _name(self) -> str:
        return (self.tracing.service_name if self.tracing is not None else self._settings.service_name) or ""


class Installation:
    """The parts and monitors of one app. Parts are removed when a lifespan ends, and installed again by the next one.

    Attributes:
        settings: The settings in force.
        metrics: All metrics, kept over removal.
        findings: The outlet for findings, kept over removal.
        backlog: What ended requests have left to do, kept over removal.
        caches: The caches to observe, kept over removal.
        deliveries: What `flush` asks to deliver, besides the tracing; kept over removal.
        parts: What is installed; what is off, and why.
    """

    def __init__(
        self,
        app: Starlette,
        engines: "Sequence[Engine | AsyncEngine] | None",
        settings: Settings,
        hooks: ServerHooks,
    ) -> None:
        """Install nothing yet: see `start`."""
        self.settings = settings
        self.metrics: Metrics = Metrics(
            max_series=settings.metrics.max_series,
            buckets=settings.metrics.buckets,
            request_labels=tuple(hooks.labels),
        )
        metrics = self.metrics
        self._guard = Guard(lambda part: metrics.telemetry_errors.child(part).inc(), settings.exceptions)
        self._in_process = _InProcess(settings, self.metrics, self._guard)
        self.findings: Findings = self._in_process.findings
        self.backlog: Backlog = self._in_process.backlog
        self.metrics.before_reading(self.backlog.drain)
        self.caches: Caches = Caches()
        self.deliveries: Deliveries = Deliveries()
        self.parts: tuple[Part, ...] = ()
        self._app = app
        self._engines = engines
        self._hooks = hooks
        self._on_app = ExitStack()
        self._lifespan = ExitStack()
        self._lock = threading.Lock()
        self._open = False
        self._was_open = False
        self._lifespans = 0
        self._materials: Materials | None = None
        self._runner: MonitorRunner | None = None

    def start(self) -> None:
        """Install all parts, and follow the app's lifespan."""
        self._install()
        self._lifespan.enter_context(wrapped_lifespan(self._app, self._around_lifespan, self._guard))
        gone = finalize(self._app, self._in_process.close_soon)
        gone.atexit = False
        self._lifespan.callback(gone.detach)
        if is_inside_lifespan(self._app):
            self._start_inside_lifespan()

    def stop(self) -> None:
        """Remove all parts, and leave the app's lifespan alone."""
        self._remove()
        self._lifespan.close()

    def diagnose(self) -> Report:
        """See `Telemetry.diagnose`."""
        self.backlog.drain()
        return self._in_process.service.diagnose()

    @property
    def tracing(self) -> Tracing | None:
        """The spans' way out; None if the SDK is disabled."""
        return self._in_process.tracing

    def _install(self) -> None:
        with self._lock:
            if self._open:
                return
            with ExitStack() as exits, ExitStack() as on_app:
                given = self._materials = self._opened(exits)
                self.parts = tuple(part(given) for part in PARTS)
                self._runner = MonitorRunner(
                    [monitor for part in self.parts for monitor in part.monitors],
                    [monitor for part in self.parts for monitor in part.loop_monitors],
                    self._guard,
                )
                exits.callback(self._runner.stop)
                for part in self.parts:
                    for install in part.installs:
                        exits.enter_context(install)
                for part in self.parts:
                    for install in part.on_app:
                        on_app.enter_context(install)
                self._in_process.exits, self._on_app = exits.pop_all(), on_app.pop_all()
            service = resource_of(given.tracing.provider, self.settings).attributes.get(SERVICE_VERSION, "")
            self.metrics.build_info.child(*map(installed_version, PACKAGES), given.source, str(service)).set(1)
            self.metrics.workers.set(1)
            self.metrics.workers_silent.set(0)
            self._open = self._was_open = True

    def _remove(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                self.backlog.stop()
                self._on_app.close()
                self._in_process.close()

    def _remove_guarded(self) -> None:
        try:
            self._remove()
        except Exception as error:  # noqa: BLE001 - the app stops as it would without
            self._guard.failed("installation", error)

    def _opened(self, exits: ExitStack) -> Materials:
        """Open the tracing, which all parts need, and build on it what they share."""
        app, settings = self._app, self.settings
        source = chosen_source(app, settings.server_span)
        provider = (native_config(app) or {}).get("tracer_provider")
        tracing = self._in_process.tracing = exits.enter_context(
            open_tracing(settings, self.metrics, self._guard, given=provider, backlog=self.backlog)
        )
        if self._was_open:
            settings = _without_void(settings, tracing)
        # before the tracing closes itself, since the interpreter calls what was registered last first
        atexit.register(self.backlog.drain)
        exits.callback(atexit.unregister, self.backlog.drain)
        signals = Signals(
            tracing.tracer,
            self.metrics,
            self.findings,
            self._guard,
            backlog=self.backlog,
            awaits=self._in_process.awaits,
            recent=self._in_process.recent,
            exceptions=settings.exceptions,
        )
        workers = self._in_process.service.workers
        exposition = Exposition(self.metrics, settings.metrics, self._guard, workers)
        return Materials(
            app=app,
            engines=self._engines,
            settings=settings,
            signals=signals,
            tracing=tracing,
            caches=self.caches,
            exposition=exposition,
            workers=workers,
            deliveries=self.deliveries,
            source=source,
            layers=layers_of(
                app,
                settings,
                signals,
                exposition=exposition,
                source=source,
                hooks=self._hooks,
                diagnose=self.diagnose,
                on_new_loop=self._on_new_loop,
            ),
        )

    @asynccontextmanager
    async def _around_lifespan(self, lifespan: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """Run the monitors between the app's start-up and its shutdown; then deliver all spans and remove the parts."""
        try:
            await self._give_way()
            self._install()
            if self._materials is not None:
                self._materials.layers.make_outermost()
        except Exception as error:  # noqa: BLE001 - the app starts unobserved
            self._guard.failed("installation", error)
        if not self._open or self._runner is None or self._materials is None:
            async with lifespan as state:
                yield state
            return
        self._lifespans += 1
        self._tell_of_trio()
        try:
            async with TracedStartUp(lifespan, self._materials.signals) as state, self._runner.running():
                yield state
        finally:
            await self._lifespan_ended()

    async def _give_way(self) -> None:
        """Remove the parts if another provider has become the global one since set-up: the next ones join it."""
        if self.tracing is not None and self.tracing.has_rival and not self._lifespans:
            await on_a_thread(self._remove)

    async def _lifespan_ended(self) -> None:
        """Remove the parts, unless the app's lifespan runs on another event loop too."""
        with self._lock:
            self._lifespans -= 1
        if not self._lifespans:
            await on_a_thread(self._remove_guarded)

    def _start_inside_lifespan(self) -> None:
        assert self._runner is not None  # noqa: S101 - set by _install
        self._runner.start_in_running_loop(after=0.0)
        if at_end_of_running_lifespan(self._app, self._lifespan_ended):
            self._lifespans += 1
            return
        detail = (
            "set up inside a running lifespan, whose end cannot be observed: spans of the last moments before SIGTERM"
            " may be lost. Remedy: call setup_telemetry right after app = FastAPI(), or telemetry.shutdown() after the"
            " yield"
        )
        self._tell_of_exit(detail)

    def _tell_of_exit(self, detail: str) -> None:
        self.parts = (*self.parts, Part("delivery at exit", on=False, detail=detail))
        _logger.warning("otel_fastperf: %s.", detail)

    def _tell_of_no_lifespan(self) -> None:
        """SIGTERM ends a server without any code of ours, unless a lifespan does: uvicorn raises it again.

        Daphne, which knows no lifespan, ends as a program does that has done its work, and then `atexit` delivers.
        """
        told = any(part.name == "delivery at exit" for part in self.parts)
        if self.settings.traces.exports and not told and _DAPHNE not in sys.modules:
            self._tell_of_exit(
                f"no lifespan runs: after SIGTERM, the spans of the last {self.settings.traces.delay_ms / 1000:g} s may"
                " be lost. Remedy: run the server with lifespan=auto, or call telemetry.shutdown() when it stops"
            )

    def _tell_of_trio(self) -> None:
        if running_loop() is None:
            parts, self.parts = self.parts, tuple(part.without_asyncio() for part in self.parts)
            off = [part.name for part, now in zip(parts, self.parts, strict=True) if part is not now]
            if off:
                _logger.warning(
                    "otel_fastperf: the server runs trio, so these parts see less or nothing: %s. describe() says what."
                    " Remedy: run the server on asyncio.",
                    ", ".join(off),
                )

    def _watch_rivals(self) -> None:
        if self.tracing is not None:
            self.tracing.watch_rivals(trace.get_current_span() if is_contrib_applied(self._app) else None)

    def _on_new_loop(self) -> Awaitable[object] | None:
        """Start the monitors for a request that arrived on a new event loop, unless a lifespan runs them there."""
        if self._runner is None:
            return None
        self._tell_of_trio()
        self._watch_rivals()
        after = self.settings.loop.start_after
        started = self._runner.start_in_running_loop(after=after)
        if started is not None:
            self._tell_of_no_lifespan()
        return asyncio.wait_for(started.wait(), _START_TIMEOUT) if started is not None and not after else None


def _without_void(settings: Settings, tracing: Tracing) -> Settings:
    """The settings for a later start of the app: without those that a provider which was set since makes void."""
    if not settings.traces.keep or isinstance(tracing.tracer, LeanTracer):
        return settings
    provider = type(tracing.provider)
    _logger.warning(
        "otel_fastperf: traces.keep is off, because %s.%s became the global TracerProvider after setup_telemetry(app),"
        " and spans of another library's provider cannot be held. Remedy: remove the setting, or do not set that"
        " provider.",
        provider.__module__,
        provider.__qualname__,
    )
    return settings.model_copy(update={"traces": settings.traces.model_copy(update={"keep": ()})})
