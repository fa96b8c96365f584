"""`setup_telemetry`, the one call that observes an app, and the `Telemetry` handle that it returns."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Self, TypeVar

from starlette.applications import Starlette

from otel_fastperf.errors import SetupError
from otel_fastperf.findings import Finding
from otel_fastperf.findings_outlet import Detector
from otel_fastperf.installation import Installation
from otel_fastperf.instrumentation.engines import Engines, checked_engines
from otel_fastperf.instrumentation.lifespan import on_a_thread
from otel_fastperf.instrumentation.server_hooks import (
    RequestLabel,
    ServerHooks,
    ServerRequestHook,
    ServerResponseHook,
    checked_hooks,
)
from otel_fastperf.memory.allocations import AllocationReport, allocations
from otel_fastperf.parts import Part
from otel_fastperf.report.model import Report
from otel_fastperf.requests.view import RequestView
from otel_fastperf.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_C = TypeVar("_C")

_logger: Final = logging.getLogger("otel_fastperf")

#: name of the attribute of `app.state` that holds the handle
_STATE_KEY: Final = "otel_fastperf_telemetry"


def setup_telemetry(
    app: Starlette,
    *,
    engines: Engines = None,
    settings: Settings | None = None,
    server_request_hook: ServerRequestHook | None = None,
    server_response_hook: ServerResponseHook | None = None,
    request_labels: Mapping[str, RequestLabel] | None = None,
) -> "Telemetry":
    """Trace and measure a FastAPI app, and look for the bottlenecks of its requests.

    Call it once per app: right after `app = FastAPI()`, at the end of the module, in an app factory, or in the
    lifespan. A second call for the same app returns the first handle and changes nothing.

    Args:
        app: The FastAPI (or Starlette) app itself, not a middleware around it.
        engines: The SQLAlchemy engines to observe. None observes every engine of the process, present and future.
        settings: None reads the environment (`OTEL_*` and `OTEL_FASTPERF_*`).
        server_request_hook: Called as `hook(span, scope)` when a request begins, on the event loop: sets attributes of
            the SERVER span, or its name. If it raises, the failure is counted.
        server_response_hook: Called as `hook(span, scope, message)` before the SERVER span ends; `message` is
            `http.response.start`, with status and headers. The rest is as for `server_request_hook`.
        request_labels: Functions by label: `{"tenant": function}` adds the label `tenant` to
            `http_server_request_duration_seconds`, with the value of `function(scope)`. Each value is a series of its
            own; 100 of them are kept apart.

    Returns:
        The handle: what is on (`describe()`), why the app is slow (`diagnose()`), and the way out (`shutdown()`).

    Raises:
        SettingsError: Settings are wrong. The message lists all of them, each with its remedy.
        SetupError: The app, an engine or an installed package does not fit. The message names the remedy.
    """
    _check_app(app)
    hooks = checked_hooks(server_request_hook, server_response_hook, request_labels)
    existing = telemetry_of(app)
    given = hooks.any or engines is not None or settings is not None
    if existing is not None and existing.is_automatic and given:
        # the code knows better than the environment
        existing.shutdown()
        existing = None
    if existing is not None:
        if given:
            _logger.warning(
                "otel_fastperf: setup_telemetry was called again for the same app; the settings of the first call stay"
                " in force. Remedy: call it once, or call shutdown() on the first handle before the second call."
            )
        return existing
    return _set_up(app, engines, settings, hooks, is_automatic=False)


def set_up_automatically(app: Starlette) -> None:
    """Set up an app whose code has not called `setup_telemetry` so far. If it does so later, that call counts.

    Raises:
        SettingsError, SetupError: As for `setup_telemetry`.
    """
    if telemetry_of(app) is None:
        _set_up(app, None, None, ServerHooks(), is_automatic=True)


def _set_up(
    app: Starlette, engines: Engines, settings: Settings | None, hooks: ServerHooks, *, is_automatic: bool
) -> "Telemetry":
    installation = Installation(app, checked_engines(engines), Settings() if settings is None else settings, hooks)
    telemetry = Telemetry(app, installation, is_automatic=is_automatic)
    if installation.settings.sdk_disabled:
        installation.parts = (Part("telemetry", on=False, detail="OTEL_SDK_DISABLED is true"),)
    else:
        installation.start()
        setattr(app.state, _STATE_KEY, telemetry)
    _logger.info("otel_fastperf: %s", "; ".join(map(str, installation.parts)))
    return telemetry


def telemetry_of(app: object) -> "Telemetry | None":
    """The handle of an app for which `setup_telemetry` was called; None for any other object."""
    found = getattr(getattr(app, "state", None), _STATE_KEY, None)
    return found if isinstance(found, Telemetry) else None


class Telemetry:
    """The handle that `setup_telemetry` returns. Do not create one yourself.

    It is a context manager, synchronous and asynchronous: leaving the block calls `shutdown()`.

    Attributes:
        settings: The settings in force.
        metrics: All metrics of this app, on a registry of its own.
        is_automatic: The app was set up by `otel-fastperf run` or the OpenTelemetry agent, not by its code.
    """

    def __init__(self, app: Starlette, installation: Installation, *, is_automatic: bool = False) -> None:
        self.settings: Final = installation.settings
        self.metrics: Final = installation.metrics
        self.is_automatic: Final = is_automatic
        self._app = app
        self._installation = installation
        self._findings = installation.findings

    def describe(self) -> str:
        """List the parts, one per line: on or off, and how it is set up or why it is off."""
        return "\n".join(str(part.as_served(self._app)) for part in self._installation.parts)

    def spans(self) -> "tuple[ReadableSpan, ...]":
        """Finished spans kept in this process, oldest first. Empty if spans are exported."""
        self._installation.backlog.drain()
        tracing = self._installation.tracing
        return () if tracing is None or tracing.store is None else tracing.store.spans()

    def findings(self) -> tuple[Finding, ...]:
        """Bottlenecks found so far, merged, worst first. They outlive `shutdown()`."""
        self._installation.backlog.drain()
        return self._findings.log.findings()

    def diagnose(self) -> Report:
        """Explain why the app is slow: the time budget of each route, the state of the process, the findings.

        Covers this process since set-up. Reads all metrics and asks the kernel for memory figures, which takes about
        30 ms for 50 routes: call it with `asyncio.to_thread` from an `async def` endpoint.
        """
        return self._installation.diagnose()

    def add_detector(self, detector: Detector) -> Callable[[], None]:
        """Run your own detector on every finished request; returns a function that removes it.

        `detector(request)` is called on the event loop and yields a `Finding` for each bottleneck that it sees in the
        `RequestView`, which it must not keep. If it raises, the failure is counted and only its own findings are lost.
        """
        self._installation.backlog.drain()
        return self._findings.add_detector(detector, guest=True)

    def add_finding_listener(self, listener: Callable[[Finding, RequestView | None], object]) -> Callable[[], None]:
        """Call `listener(finding, request)` for each single finding; returns a function that removes it.

        `request` is None for a finding that belongs to no request. Called on the thread that reports the finding. If it
        raises, the failure is counted.
        """
        self._installation.backlog.drain()
        return self._findings.add_finding_listener(listener, guest=True)

    def add_request_listener(self, listener: Callable[[RequestView], object]) -> Callable[[], None]:
        """Call `listener(request)` for each finished request, after its detectors; returns a function that removes it.

        Called on the event loop. If it raises, the failure is counted.
        """
        self._installation.backlog.drain()
        return self._findings.add_request_listener(listener, guest=True)

    def observe_cache(self, cache: _C, name: str | None = None) -> _C:
        """Measure hits, misses, evictions and size of a cache; returns the cache.

        Takes caches and cached functions of cachetools and aiocache, backends of fastapi-cache, and redis clients.
        Functions with `functools.lru_cache` are discovered without this call.

        Raises:
            SetupError: The cache is of an unknown kind.
        """
        return self._installation.caches.observe(cache, name)

    def allocations(self, seconds: float = 10.0, most: int = 20, *, frames: int = 1) -> AllocationReport:
        """Trace all allocations of the process for `seconds`, and report the lines that keep the most memory.

        Blocks meanwhile, and slows the process down.

        Args:
            seconds: How long to trace, up to 60.
            most: How many lines to report, up to 100.
            frames: How many frames of each call stack to record, up to 25.

        Raises:
            AllocationsError: A trace is already running, or an argument is out of range.
        """
        return allocations(seconds, most, frames=frames)

    def flush(self, timeout: float = 2.0) -> bool:
        """Export all finished spans, and push the metrics and log records that are exported by OTLP.

        Blocks for up to `timeout` seconds; True if all of them were settled.
        """
        deadline = time.monotonic() + timeout
        self._installation.backlog.drain()
        tracing = self._installation.tracing
        settled = tracing is None or tracing.flush(timeout)
        return self._installation.deliveries.flush(deadline - time.monotonic()) and settled

    def shutdown(self) -> None:
        """Export the last spans, then undo everything that `setup_telemetry` did.

        Blocks for up to `traces.exit_timeout` seconds. Further calls do nothing.
        """
        self._installation.stop()
        if telemetry_of(self._app) is self:
            delattr(self._app.state, _STATE_KEY)

    def __enter__(self) -> Self:
        """The handle itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Call `shutdown()`."""
        self.shutdown()

    async def __aenter__(self) -> Self:
        """The handle itself."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Call `shutdown()` on a thread, because it may wait for the collector."""
        await on_a_thread(self.shutdown)


def _check_app(app: object) -> None:
    if isinstance(app, Starlette):
        return
    inner = getattr(app, "app", None)
    hint = f" It wraps one: pass that ({type(app).__name__}.app)." if isinstance(inner, Starlette) else ""
    got = f"{type(app).__module__}.{type(app).__qualname__}"
    message = (
        f"setup_telemetry(app) needs the FastAPI app itself, got {got}.{hint}"
        " Remedy: call setup_telemetry(app) right after app = FastAPI(), before the app is wrapped."
    )
    raise SetupError(message)
