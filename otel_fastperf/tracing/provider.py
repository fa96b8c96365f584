"""Our own TracerProvider, and its place as the global one."""

import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.settings import Settings
from otel_fastperf.tracing.safe_sdk import GuardedProcessors, sampler_of
from otel_fastperf.tracing.tracer import LeanTracer, made_lean, processors_at

#: name of the tracer of this package
OUR_SCOPE: Final = "otel_fastperf"
_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"


#: those that are not retired, by their processors, oldest first
_LIVING: "Final[dict[GuardedProcessors, FastPerfTracerProvider]]" = {}


class FastPerfTracerProvider(TracerProvider):
    """The SDK's provider, guarded, that knows its process.

    A tracer that was got from it belongs to the process: once there is a second provider, or this one is retired, a
    span goes where its parent goes, and without a parent to whatever provider is the global one then. So a module-level
    `tracer = trace.get_tracer(__name__)` serves each app of a process, and works on after `shutdown()` and a second
    `setup_telemetry`, as test suites do it.
    """

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.guarded: Final = GuardedProcessors(guard)
        self._settings = settings
        self._tracers_out: weakref.WeakKeyDictionary[Tracer, tuple[Any, ...]] = weakref.WeakKeyDictionary()
        self._tracers_out_lock = threading.Lock()
        self._retired = self._shared = False
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
        tracer = self.own_tracer(*scope)
        if isinstance(tracer, Tracer) and self._shared and instrumenting_module_name != OUR_SCOPE:
            self._share(tracer, scope)
        return tracer

    def own_tracer(self, *scope: Any) -> trace.Tracer:
        """A tracer whose spans go here, whatever becomes of those of other tracers."""
        tracer = super().get_tracer(*scope)
        if isinstance(tracer, Tracer):
            with self._tracers_out_lock:
                if not isinstance(tracer, LeanTracer):
                    made_lean(tracer, self._settings.exceptions)
                self._tracers_out[tracer] = scope
        return tracer

    def share(self) -> None:
        """From now on its tracers make spans of whatever provider a span belongs to."""
        if not self._shared:
            self._shared = True
            for tracer, scope in self._tracers_and_scopes():
                if scope[0] != OUR_SCOPE:
                    self._share(tracer, scope)

    def retire(self) -> None:
        """From now on its tracers make spans of other providers only."""
        self._retired = True
        for tracer, scope in self._tracers_and_scopes():
            self._share(tracer, scope)

    def _tracers_and_scopes(self) -> list[tuple[Tracer, tuple[Any, ...]]]:
        with self._tracers_out_lock:
            return list(self._tracers_out.items())

    def _share(self, tracer: Tracer, scope: tuple[Any, ...]) -> None:
        # start_as_current_span goes through start_span too
        tracer.start_span = self._starter(scope)  # type: ignore[method-assign]

    def _starter(self, scope: tuple[Any, ...]) -> Callable[..., trace.Span]:
        def start_span(name: str, context: Context | None = None, *arguments: Any, **options: Any) -> trace.Span:
            provider = _LIVING.get(processors_at(context)) or self._heir()  # type: ignore[arg-type]
            if not isinstance(provider, FastPerfTracerProvider):
                return provider.get_tracer(*scope).start_span(name, context, *arguments, **options)
            tracer = provider.own_tracer(*scope)
            # the class's: the tracer's own may be this function
            return type(tracer).start_span(tracer, name, context, *arguments, **options)

        return start_span

    def _heir(self) -> trace.TracerProvider:
        current = trace.get_tracer_provider()
        return trace.NoOpTracerProvider() if current is self and self._retired else current

    def _after_in_child(self) -> None:
        self._tracers_out_lock = threading.Lock()
        self._resource = self._resource.merge(_process(self._settings))
        for tracer in tuple(self._tracers_out):
            tracer.resource = self._resource


def our_tracer(provider: trace.TracerProvider) -> trace.Tracer:
    """The tracer of this package: scope, version, semantic conventions."""
    return provider.get_tracer(OUR_SCOPE, installed_version("otel-fastperf"), _SCHEMA_URL)


def our_scope() -> InstrumentationScope:
    """The same for metrics."""
    return InstrumentationScope("otel_fastperf", installed_version("otel-fastperf"), _SCHEMA_URL)


def resource_of(provider: trace.TracerProvider, settings: Settings) -> Resource:
    """What the spans of a provider say of this process; what the settings say, if the provider does not tell."""
    known = provider.resource if isinstance(provider, TracerProvider) else _resource(settings)
    return known if SERVICE_INSTANCE_ID in known.attributes else known.merge(_process(settings))


def service_name(provider: trace.TracerProvider) -> str | None:
    """The service's name; "" where none was given (the SDK's `unknown_service`), None where it cannot be known."""
    if not isinstance(provider, TracerProvider):
        return None
    name = str(provider.resource.attributes.get(SERVICE_NAME, ""))
    return "" if name.startswith("unknown_service") else name


@contextmanager
def as_global(provider: FastPerfTracerProvider) -> Iterator[None]:
    """Make it the global provider if there is none but ours, so that the users' own `trace.get_tracer()` joins.

    Of several apps, the newest that lives has the place; afterwards there is none again. The API lets a provider be set
    once, and has no way to take it back. So its private name is written, only while it holds none or what is ours: an
    application, or a library like Logfire, that sets its own after us is not refused.
    """
    _LIVING[provider.guarded] = provider
    if len(_LIVING) > 1:
        for living in tuple(_LIVING.values()):
            living.share()
    if _has_place():
        trace._TRACER_PROVIDER = provider  # noqa: SLF001
    elif isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        _LIVING.pop(provider.guarded, None)
        provider.retire()
        if _has_place() and vars(trace)["_TRACER_PROVIDER"] is provider:
            trace._TRACER_PROVIDER = next(reversed(_LIVING.values()), None)  # noqa: SLF001


def other_global() -> trace.TracerProvider | None:
    """The global provider, if somebody else set one that makes spans."""
    current = trace.get_tracer_provider()
    ours = isinstance(current, trace.ProxyTracerProvider | trace.NoOpTracerProvider | FastPerfTracerProvider)
    return None if ours else current


def _has_place() -> bool:
    """Whether there is none but ours, in the place where this version of the API keeps the global provider."""
    # reads the variable that names a provider, if there is one
    trace.get_tracer_provider()
    held = vars(trace).get("_TRACER_PROVIDER", trace)
    return held is None or isinstance(held, FastPerfTracerProvider)


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
