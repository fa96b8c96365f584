"""Where spans go: the provider that is there, or our own; an OTLP endpoint, or this process."""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_fastperf.internals.backlog import Backlog
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import Settings, TracesSettings
from otel_fastperf.tracing.exporters import destination
from otel_fastperf.tracing.log_once import exporters_hushed
from otel_fastperf.tracing.provider import (
    FastPerfTracerProvider,
    as_global,
    other_global,
    our_tracer,
    processor_added,
    processors_of,
    service_name,
)
from otel_fastperf.tracing.rivals import Rivals
from otel_fastperf.tracing.sender import Sender
from otel_fastperf.tracing.store import SpanStore
from otel_fastperf.tracing.transport import address

_logger: Final = logging.getLogger("otel_fastperf")


@dataclass(frozen=True, slots=True, eq=False)
class Tracing:
    """The tracing of one `Telemetry`."""

    tracer: trace.Tracer
    provider: trace.TracerProvider
    #: finished spans, where they are kept in this process
    store: SpanStore | None
    #: where spans go, in a sentence without secrets
    description: str
    _sender: Sender | None
    _others: "_Others"
    #: None if spans do not go to a provider of ours
    _rivals: Rivals | None = None

    @property
    def service_name(self) -> str:
        """The provider's `service.name`; "" where there is none, or it cannot be known."""
        return service_name(self.provider) or ""

    @property
    def has_rival(self) -> bool:
        """Whether another provider has become the global one since, so that the application's own spans go there."""
        return self._rivals is not None and other_global() is not None

    def watch_rivals(self, server_span: trace.Span | None) -> None:
        """Have the log say when spans go to two places from now on, or if `server_span` goes elsewhere than ours."""
        if self._rivals is not None:
            self._rivals.watch(server_span)

    def flush(self, timeout: float) -> bool:
        """Export what has ended. Blocks for up to `timeout` seconds; True when all of it was settled."""
        deadline = time.monotonic() + timeout
        wait = self._others.start(shutdown=False, timeout=timeout)
        settled = self._sender is None or self._sender.flush(timeout)
        return wait(deadline - time.monotonic()) and settled

    def close(self, timeout: float) -> None:
        """Export what has ended, then end; blocks for up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        wait = self._others.start(shutdown=isinstance(self.provider, FastPerfTracerProvider), timeout=timeout)
        if self._sender is not None:
            self._sender.close(timeout)
        wait(deadline - time.monotonic())


@contextmanager
def open_tracing(
    settings: Settings,
    metrics: Metrics,
    guard: Guard,
    *,
    given: trace.TracerProvider | None = None,
    backlog: Backlog | None = None,
) -> Iterator[Tracing]:
    """Tracing as the settings say, undone at the end: spans delivered, threads ended, the global provider as it was.

    A provider that is there already is joined: `given`, else the global one, unless it is ours and another app's. If it
    is an SDK provider without any processor, its spans go where ours would; else they go where its owner sends them.

    `backlog` is where spans of requests end, some milliseconds late.

    Raises:
        SetupError: The sampler or the exporter that the settings name cannot be had.
    """
    joined = other_global() if given is None else given
    with ExitStack() as stack:
        if joined is None:
            tracing = _on_own_provider(stack, settings, metrics, guard, backlog)
        else:
            tracing = _on_joined_provider(stack, joined, settings, metrics, guard)

        def close() -> None:
            tracing.close(settings.traces.exit_timeout)

        # for a process whose lifespan does not run, or not to its end
        atexit.register(close)
        stack.callback(atexit.unregister, close)
        stack.callback(close)
        yield tracing


def _on_own_provider(
    stack: ExitStack, settings: Settings, metrics: Metrics, guard: Guard, backlog: Backlog | None
) -> Tracing:
    provider = FastPerfTracerProvider(settings, guard)
    stack.enter_context(as_global(provider))
    processor = _processor(stack, settings.traces, metrics, guard, backlog)
    provider.add_span_processor(processor)
    description = _destination(settings.traces)
    if settings.traces.exports and service_name(provider) == "":
        description += "; without a service name, set OTEL_SERVICE_NAME"
        _logger.info("otel_fastperf: spans are exported as unknown_service. Remedy: set OTEL_SERVICE_NAME")
    rivals = Rivals(metrics)
    stack.callback(rivals.end)
    return _tracing(provider, processor, description, guard, rivals)


def _on_joined_provider(
    stack: ExitStack, provider: trace.TracerProvider, settings: Settings, metrics: Metrics, guard: Guard
) -> Tracing:
    there = "spans go to the TracerProvider that was there"
    processors = processors_of(provider)
    if processors or not isinstance(provider, TracerProvider):
        number = f" ({len(processors)} processor{'s' if len(processors) > 1 else ''})" if processors else ""
        return _tracing(provider, None, there + number, guard)
    processor = _processor(stack, settings.traces, metrics, guard)
    stack.enter_context(processor_added(provider, processor))
    return _tracing(provider, processor, f"{there}, and from it: {_destination(settings.traces)}", guard)


def _tracing(
    provider: trace.TracerProvider,
    processor: "Sender | SpanStore | None",
    description: str,
    guard: Guard,
    rivals: Rivals | None = None,
) -> Tracing:
    return Tracing(
        tracer=our_tracer(provider),
        provider=provider,
        store=processor if isinstance(processor, SpanStore) else None,
        description=description,
        _sender=processor if isinstance(processor, Sender) else None,
        _others=_Others(provider, processor, guard),
        _rivals=rivals,
    )


def _processor(
    stack: ExitStack, settings: TracesSettings, metrics: Metrics, guard: Guard, backlog: Backlog | None = None
) -> Sender | SpanStore:
    if not settings.exports:
        return SpanStore(settings.store_size)
    sender = Sender(settings, destination(settings), metrics, guard, backlog)
    stack.enter_context(exporters_hushed(sender.is_current_thread))

    def refresh() -> None:
        metrics.spans_queued.set(sender.queued)
        metrics.export_failing.set(sender.failing_seconds)

    stack.callback(refresh)
    stack.callback(metrics.on_refresh(refresh))
    return sender


def _destination(settings: TracesSettings) -> str:
    if not settings.exports:
        why = "OTEL_TRACES_EXPORTER is none" if settings.exporter == "none" else "no OTLP endpoint configured"
        return f"kept in this process ({settings.store_size} spans; {why})"
    if settings.exporter == "console":
        return "printed to the console"
    return f"OTLP {settings.protocol} to {address(settings)}"


class _Others:
    """The processors that are not ours: flushed and shut down too, but on a thread, since they may take their time."""

    def __init__(self, provider: trace.TracerProvider, own: "Sender | SpanStore | None", guard: Guard) -> None:
        self._provider = provider
        self._own = own
        self._guard = guard

    def start(self, *, shutdown: bool, timeout: float) -> Callable[[float], bool]:
        """Begin; the result waits for the end, for that number of seconds, and is True if all went well."""
        processors = processors_of(self._provider)
        if processors is not None and all(each is self._own for each in processors):
            return lambda _seconds: True
        done = threading.Event()
        results: list[bool] = []

        def run() -> None:
            try:
                results.append(self._run(processors, shutdown=shutdown, millis=int(timeout * 1000)))
            except Exception as error:  # noqa: BLE001 - somebody else's processor
                self._guard.failed("span_processor", error)
            done.set()

        try:
            threading.Thread(target=run, name="otel_fastperf-flush", daemon=True).start()
        except RuntimeError:
            # the interpreter is ending and starts no more threads; their own atexit handlers come after ours
            return lambda _seconds: False
        return lambda seconds: done.wait(max(seconds, 0.0)) and results == [True]

    def _run(self, processors: tuple[SpanProcessor, ...] | None, *, shutdown: bool, millis: int) -> bool:
        if processors is None:
            flush = getattr(self._provider, "force_flush", None)
            return flush is None or flush(millis) is not False
        flushed = True
        for processor in processors:
            if processor is not self._own:
                flushed = processor.force_flush(millis) is not False and flushed
                if shutdown:
                    processor.shutdown()
        return flushed
