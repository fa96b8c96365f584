"""Our own TracerProvider, and its place as the global one."""

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.util.types import Attributes

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.settings import Settings
from otel_fastperf.tracing.safe_sdk import GuardedProcessors, sampler_of
from otel_fastperf.tracing.tracer import LeanTracer, made_lean

_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"


class FastPerfTracerProvider(TracerProvider):
    """The SDK's provider, guarded, that knows its process.

    A tracer that was got from it outlives it: once the provider is retired, the tracer starts its spans with whatever
    provider is the global one then. So a module-level `tracer = trace.get_tracer(__name__)` works on after `shutdown()`
    and a second `setup_telemetry`, as test suites do it.
    """

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.guarded: Final = GuardedProcessors(guard)
        self._settings = settings
        self._tracers_out: weakref.WeakKeyDictionary[Tracer, tuple[Any, ...]] = weakref.WeakKeyDictionary()
        self._tracers_out_lock = threading.Lock()
        self._retired = False
        super().__init__(
            sampler=sampler_of(settings.traces, guard),
            resource=_resource(settings).merge(_process(settings)),
            shutdown_on_exit=False,
            active_span_processor=self.guarded,
        )
        on_fork(after_in_child=self._after_in_child)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        """A tracer whose spans cost little."""
        scope = (instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        if self._retired:
            return self._heir().get_tracer(*scope)
        tracer = super().get_tracer(*scope)
        if isinstance(tracer, Tracer):
            with self._tracers_out_lock:
                if not isinstance(tracer, LeanTracer):
                    made_lean(tracer)
                self._tracers_out[tracer] = scope
        return tracer

    def retire(self) -> None:
        """From now on its tracers are the global provider's."""
        self._retired = True
        with self._tracers_out_lock:
            tracers = list(self._tracers_out.items())
        for tracer, scope in tracers:
            # start_as_current_span goes through start_span too
            tracer.start_span = self._starter(scope)  # type: ignore[method-assign]

    def _starter(self, scope: tuple[Any, ...]) -> Callable[..., trace.Span]:
        def start_span(*arguments: Any, **options: Any) -> trace.Span:
            return self._heir().get_tracer(*scope).start_span(*arguments, **options)

        return start_span

    def _heir(self) -> trace.TracerProvider:
        current = trace.get_tracer_provider()
        return trace.NoOpTracerProvider() if current is self else current

    def _after_in_child(self) -> None:
        self._tracers_out_lock = threading.Lock()
        self._resource = self._resource.merge(_process(self._settings))
        for tracer in tuple(self._tracers_out):
            tracer.resource = self._resource


def our_tracer(provider: trace.TracerProvider) -> trace.Tracer:
    """The tracer of this package: scope, version, semantic conventions."""
    return provider.get_tracer("otel_fastperf", installed_version("otel-fastperf"), _SCHEMA_URL)


def service_name(provider: trace.TracerProvider) -> str | None:
    """The service's name; "" where none was given (the SDK's `unknown_service`), None where it cannot be known."""
    if not isinstance(provider, TracerProvider):
        return None
    name = str(provider.resource.attributes.get(SERVICE_NAME, ""))
    return "" if name.startswith("unknown_service") else name


@contextmanager
def as_global(provider: FastPerfTracerProvider) -> Iterator[None]:
    """Make it the global provider if there is none, so that the users' own `trace.get_tracer()` joins.

    Afterwards there is none again. The API has no way to take a provider back: these are its private names, touched
    only while they hold what is ours.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        if vars(trace).get("_TRACER_PROVIDER") is provider and "_TRACER_PROVIDER_SET_ONCE" in vars(trace):
            once = type(trace._TRACER_PROVIDER_SET_ONCE)  # noqa: SLF001
            trace._TRACER_PROVIDER = None  # noqa: SLF001
            trace._TRACER_PROVIDER_SET_ONCE = once()  # noqa: SLF001


def processors_of(provider: trace.TracerProvider) -> tuple[SpanProcessor, ...] | None:
    """The processors of an SDK provider; None when they cannot be known."""
    active = getattr(provider, "_active_span_processor", None)
    processors = getattr(active, "_span_processors", None)
    return processors if isinstance(provider, TracerProvider) and isinstance(processors, tuple) else None


@contextmanager
def processor_added(provider: TracerProvider, processor: SpanProcessor) -> Iterator[None]:
    """Add a processor to a provider that is not ours, and take it away again."""
    provider.add_span_processor(processor)
    try:
        yield
    finally:
        active = provider._active_span_processor  # noqa: SLF001 - the SDK has no way to remove one
        remaining = (each for each in processors_of(provider) or () if each is not processor)
        active._span_processors = tuple(remaining)  # noqa: SLF001


def _resource(settings: Settings) -> Resource:
    """What the SDK's detectors and the environment say, and over it what the settings say."""
    attributes: dict[str, Any] = dict(settings.resource_attributes)
    if settings.service_name:
        attributes[SERVICE_NAME] = settings.service_name
    return Resource.create(attributes)


def _process(settings: Settings) -> Resource:
    """Which process it is. The id is random, unless one is given, as semconv/resource/service recommends."""
    given = settings.resource_attributes.get(SERVICE_INSTANCE_ID)
    return Resource({SERVICE_INSTANCE_ID: given or str(uuid.uuid4()), PROCESS_PID: os.getpid()})
