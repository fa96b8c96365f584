"""What is installed for one app, and for how long.

There are two lifetimes. The *parts* are installed by `setup_telemetry` through an ExitStack: undone in reverse order,
also when set-up fails half-way. The *monitors* need a running event loop: they live as long as the app's lifespan, or,
if no lifespan runs, from the first request on.
"""

import asyncio
import atexit
import logging
import os
import platform
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette

from otel_fastperf.caches.registry import Caches
from otel_fastperf.exposition import Exposition
from otel_fastperf.findings_outlet import Findings
from otel_fastperf.instrumentation.lifespan import is_inside_lifespan, on_a_thread, wrapped_lifespan
from otel_fastperf.instrumentation.other_telemetry import native_config
from otel_fastperf.instrumentation.server_span import chosen_source
from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.metrics import Metrics
from otel_fastperf.monitors.runner import MonitorRunner
from otel_fastperf.parts import PARTS, Materials, Part, layers_of
from otel_fastperf.report.diagnose import diagnose
from otel_fastperf.report.model import Report
from otel_fastperf.settings import Settings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing import Tracing, open_tracing

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_logger: Final = logging.getLogger("otel_fastperf")

#: maximum time in seconds that a request waits for the monitors to start
_START_TIMEOUT: Final = 1.0

#: packages whose versions matter when a report is read
_PACKAGES: Final = ("otel-fastperf", "fastapi", "sqlalchemy", "opentelemetry-sdk")


class Installation:
    """The parts and monitors of one app. Parts are removed when a lifespan ends, and installed again by the next one.

    Attributes:
        settings: The settings in force.
        metrics: All metrics, kept over removal.
        findings: The outlet for findings, kept over removal.
        backlog: What ended requests have left to do, kept over removal.
        caches: The caches to observe, kept over removal.
        parts: What is installed; what is off, and why.
        tracing: The spans' way out; None if the SDK is disabled.
    """

    def __init__(self, app: Starlette, engines: "Sequence[Engine | AsyncEngine] | None", settings: Settings) -> None:
        """Install nothing yet: see `start`."""
        self.settings = settings
        self.metrics: Metrics = Metrics(max_series=settings.metrics.max_series)
        self._guard = Guard(lambda part: self.metrics.telemetry_errors.child(part).inc())
        self.findings: Findings = Findings(settings.findings, self.metrics, self._guard)
        self.backlog: Backlog = Backlog(lambda error: self._guard.failed("backlog", error))
        self.metrics.before_reading(self.backlog.drain)
        self.caches: Caches = Caches()
        self.parts: tuple[Part, ...] = ()
        self.tracing: Tracing | None = None
        self._app = app
        self._engines = engines
        self._made_at = time.time()
        self._exits = ExitStack()
        self._lifespan = ExitStack()
        self._lock = threading.Lock()
        self._open = False
        self._materials: Materials | None = None
        self._runner: MonitorRunner | None = None

    def start(self) -> None:
        """Install all parts, and follow the app's lifespan."""
        self._install()
        self._lifespan.enter_context(wrapped_lifespan(self._app, self._around_lifespan))
        if is_inside_lifespan(self._app):
            self._start_inside_lifespan()

    def stop(self) -> None:
        """Remove all parts, and leave the app's lifespan alone."""
        self._remove()
        self._lifespan.close()

    def diagnose(self) -> Report:
        """See `Telemetry.diagnose`."""
        self.backlog.drain()
        name = self.tracing.service_name if self.tracing is not None else self.settings.service_name
        return diagnose(
            self.metrics.samples(lambda error: self._guard.failed("metrics_refresh", error)),
            self.findings.log.findings(),
            service=name or "",
            versions={"python": platform.python_version(), **{name: installed_version(name) for name in _PACKAGES}},
            now=time.time(),
            pid=os.getpid(),
            started=self._made_at,
        )

    def _install(self) -> None:
        with self._lock:
            if self._open:
                return
            with ExitStack() as exits:
                given = self._materials = self._opened(exits)
                self.parts = tuple(part(given) for part in PARTS)
                self._runner = MonitorRunner(
                    [monitor for part in self.parts for monitor in part.monitors], given.signals.guard
                )
                exits.callback(self._runner.stop)
                for part in self.parts:
                    for install in part.installs:
                        exits.enter_context(install)
                self._exits = exits.pop_all()
            self.metrics.build_info.child(*map(installed_version, _PACKAGES), given.source).set(1)
            self._open = True

    def _remove(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                self.backlog.stop()
                self._exits.close()

    def _opened(self, exits: ExitStack) -> Materials:
        """Open the tracing, which all parts need, and build on it what they share."""
        app, settings = self._app, self.settings
        source = chosen_source(app, settings.server_span)
        provider = (native_config(app) or {}).get("tracer_provider")
        tracing = self.tracing = exits.enter_context(
            open_tracing(settings, self.metrics, self._guard, given=provider, backlog=self.backlog)
        )
        # before the tracing closes itself, since the interpreter calls what was registered last first
        atexit.register(self.backlog.drain)
        exits.callback(atexit.unregister, self.backlog.drain)
        signals = Signals(tracing.tracer, self.metrics, self.findings, self._guard, backlog=self.backlog)
        exposition = Exposition(self.metrics, settings.metrics, self._guard)
        return Materials(
            app=app,
            engines=self._engines,
            settings=settings,
            signals=signals,
            tracing=tracing,
            caches=self.caches,
            exposition=exposition,
            source=source,
            layers=layers_of(
                app,
                settings,
                signals,
                exposition=exposition,
                diagnose=self.diagnose,
                on_new_loop=self._on_new_loop,
            ),
        )

    @asynccontextmanager
    async def _around_lifespan(self, lifespan: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
        """Run the monitors between the app's start-up and its shutdown; then deliver all spans and remove the parts."""
        self._install()
        assert self._materials is not None  # noqa: S101 - set by _install
        assert self._runner is not None  # noqa: S101
        self._materials.layers.make_outermost()
        try:
            async with lifespan as state, self._runner.running():
                yield state
        finally:
            await on_a_thread(self._remove)

    def _start_inside_lifespan(self) -> None:
        assert self._runner is not None  # noqa: S101 - set by _install
        self._runner.start_in_running_loop(after=0.0)
        detail = (
            "set up inside a running lifespan, whose end cannot be observed: spans of the last moments before SIGTERM"
            " may be lost. Remedy: call setup_telemetry right after app = FastAPI(), or telemetry.shutdown() after the"
            " yield"
        )
        self.parts = (*self.parts, Part("delivery at exit", on=False, detail=detail))
        _logger.warning("otel_fastperf: %s.", detail)

    def _on_new_loop(self) -> Awaitable[object] | None:
        """Start the monitors for a request that arrived on a new event loop, unless a lifespan runs them there."""
        if self._runner is None:
            return None
        after = self.settings.loop.start_after
        started = self._runner.start_in_running_loop(after=after)
        return asyncio.wait_for(started.wait(), _START_TIMEOUT) if started is not None and not after else None
