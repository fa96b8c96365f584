"""The tracer of our provider: starts `LeanSpan`s, with the sampler's decision and nothing else."""

import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.held_traces import HeldTrace
from otel_fastperf.internals.redaction import ErrorDetail
from otel_fastperf.internals.spans import SPAN_KEY
from otel_fastperf.tracing.held_span import (
    TEMPLATE_BYTES,
    HeldCallSpan,
    HeldProcessors,
    HeldRequestSpan,
    HeldSpan,
    held_origin,
    held_trace_at,
    sampled,
)
from otel_fastperf.tracing.otlp_encoder import EncodedSpan, SpanTemplate
from otel_fastperf.tracing.safe_sdk import GuardedProcessors, GuardedSampler, ratio_sampler
from otel_fastperf.tracing.span import OUTGOING, CallSpan, CallWatcher, LeanSpan, OpenCall, SpanOrigin

_SAMPLED: Final = TraceFlags.SAMPLED
#: W3C trace context level 2: the trace id is random; unknown to OpenTelemetry < 1.42
_RANDOM: Final = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
_FLAGS: Final = tuple(TraceFlags(number) for number in range(4))
_NO_STATE: Final = TraceState()


def _local_context(trace_id: int, span_id: int, flags: TraceFlags, state: TraceState) -> SpanContext:
    """A `SpanContext` of valid ids, in a quarter of the constructor's time: the API's is a tuple of these fields."""
    fields: tuple[object, ...] = (trace_id, span_id, False, flags, state, True)
    return tuple.__new__(SpanContext, fields)


_ONE: Final = (1, 2, False, _FLAGS[1], _NO_STATE)
_is_such_a_tuple: Final = SpanContext(*_ONE) == _local_context(1, 2, _FLAGS[1], _NO_STATE)


class LeanTracer(Tracer):
    """An SDK tracer that has become ours, see `made_lean`. Its attributes are the SDK's, and these."""

    _origin: SpanOrigin
    #: that of the spans that are held; None until there is one
    _held_origin: SpanOrigin | None = None
    _random_ids: bool

    @property
    def resource(self) -> Resource:
        """The provider's resource, which changes after a fork."""
        return self._origin.resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self._origin.resource = resource
        self._held_origin = None

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - the API's signature
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
    ) -> Span:
        """Start a span; a `NonRecordingSpan` if the sampler drops it."""
        started = self._started(context, name, kind, attributes, links)
        call = self._watched(context) if kind in OUTGOING else None
        if isinstance(started, NonRecordingSpan):
            held = held_trace_at(context)
            if call is None and held is None:
                return started
            span_context, parent = started.get_span_context(), None if held is None else _parent_at(context)
            origin = self._origin if held is None else self._origin_of_held()
        else:
            span_context, parent, attributes = started
            held, origin = None, self._origin
        span = _class_of(call, held)(
            name,
            span_context,
            parent,
            kind,
            time.time_ns() if start_time is None else start_time,
            attributes,
            links or (),
            origin,
            record_exception,
            set_status_on_exception,
        )
        is_dropped = held is not None or isinstance(started, NonRecordingSpan)
        if is_dropped or call is not None:
            _watch(span, call, held, is_dropped=is_dropped)
        if self._origin.processor.starting and not is_dropped:
            self._origin.processor.on_start(span, context)
        return span

    def _watched(self, context: Context | None) -> OpenCall | None:
        """Whoever wants to know of the end of the outgoing call that starts."""
        watcher: CallWatcher | None = self._origin.processor.call_watcher
        if watcher is None:
            return None
        is_inner = isinstance(trace.get_current_span(context), CallSpan)
        try:
            return watcher(self._origin.scope.name, is_inner)
        except Exception as error:  # noqa: BLE001 - the span is the application's
            self._origin.processor.failed("clients", error)
            return None

    def emit(self, template: "FinishedSpan", context: Context, start: int, end: int) -> SpanContext:
        """Emit a span that has ended, from its template; returns its ids. Times are in nanoseconds."""
        started = self._started(context, template.name, template.kind, template.attributes, ())
        if isinstance(started, NonRecordingSpan):
            return self._emit_held(template, started.get_span_context(), context, start, end)
        span_context, parent, attributes = started
        take = self._origin.processor.take_encoded
        if take is None or attributes is not template.attributes or not span_context.trace_flags & _SAMPLED:
            span = self._new(template.name, span_context, parent, template.kind, start, attributes)
            span.end(end)
        else:
            take(self._encoded(template, span_context, parent, start, end))
        return span_context

    def _encoded(
        self, template: "FinishedSpan", context: SpanContext, parent: SpanContext | None, start: int, end: int
    ) -> EncodedSpan:
        encode = template.encoded
        if encode is None:
            sample = self._new(template.name, context, parent, template.kind, start, template.attributes)
            encode = template.encoded = SpanTemplate(sample).encode
        return EncodedSpan(self._origin.resource, self._origin.scope, encode(context, parent, start, end))

    def _emit_held(
        self, template: "FinishedSpan", span_context: SpanContext, context: Context, start: int, end: int
    ) -> SpanContext:
        """Have a span that the sampler drops wait, if its trace is held: as its template, since few are kept."""
        held = held_trace_at(context)
        if held is not None:
            parent = _parent_in(context)
            held.put(partial(self._emit_kept, held, template, span_context, parent, start, end), TEMPLATE_BYTES)
        return span_context

    def _emit_kept(
        self,
        held: HeldTrace,
        template: "FinishedSpan",
        context: SpanContext,
        parent: SpanContext | None,
        start: int,
        end: int,
    ) -> None:
        take = self._origin.processor.take_encoded
        if take is not None:
            take(self._encoded(template, sampled(context), parent, start, end))
            return
        origin, links = self._origin_of_held(), ()
        kind, attributes = template.kind, template.attributes
        span = HeldSpan(template.name, context, parent, kind, start, attributes, links, origin, True, True)  # noqa: FBT003
        span.held_trace = held
        span.end(end)

    def hold(
        self,
        held: HeldTrace,
        dropped: Span,
        name: str,
        context: Context | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link],
        start: int,
    ) -> HeldRequestSpan:
        """The span of a request in place of `dropped`, which the sampler dropped: the first of a held trace."""
        ids, parent, origin = dropped.get_span_context(), _parent_at(context), self._origin_of_held()
        span = HeldRequestSpan(name, ids, parent, kind, start, attributes, links, origin, True, True)  # noqa: FBT003
        span.held_trace = held
        return span

    def _origin_of_held(self) -> SpanOrigin:
        origin = self._held_origin
        if origin is None:
            origin = self._held_origin = held_origin(self._origin)
        return origin

    def _new(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        start: int,
        attributes: Attributes,
    ) -> LeanSpan:
        return LeanSpan(name, context, parent, kind, start, attributes, (), self._origin, True, True)  # noqa: FBT003

    def _started(
        self, context: Context | None, name: str, kind: SpanKind, attributes: Attributes, links: Sequence[Link] | None
    ) -> "tuple[SpanContext, SpanContext | None, Attributes] | NonRecordingSpan":
        """The ids of a span, its parent and the attributes that the sampler leaves; or that it is not recorded."""
        parent = _parent_in(get_current() if context is None else context)
        ids = self.id_generator
        if parent is None:
            trace_id = ids.generate_trace_id()
            flags = _RANDOM if self._random_ids else 0
        else:
            trace_id = parent.trace_id
            flags = parent.trace_flags & _RANDOM
        sampler = self.sampler
        records = sampled = sampler.decide(parent, trace_id) if type(sampler) is GuardedSampler else None
        state = _NO_STATE if parent is None else parent.trace_state
        if sampled is None:
            result = sampler.should_sample(context, trace_id, name, kind, attributes, links or ())
            records, sampled = result.decision is not Decision.DROP, result.decision is Decision.RECORD_AND_SAMPLE
            attributes, state = result.attributes, result.trace_state or _NO_STATE
        if sampled:
            flags |= _SAMPLED
        span_id = ids.generate_span_id()
        if _is_such_a_tuple and type(ids) is RandomIdGenerator:
            span_context = _local_context(trace_id, span_id, _FLAGS[flags], state)
        else:
            span_context = SpanContext(trace_id, span_id, False, _FLAGS[flags], state)  # noqa: FBT003
        return (span_context, parent, attributes) if records else NonRecordingSpan(span_context)


def _parent_in(context: Context) -> SpanContext | None:
    """The context's current span; None if there is none, or an invalid one. What the API does, without its calls."""
    current = context.get(SPAN_KEY)
    if current is None:
        return None
    if type(current) is LeanSpan:
        return current.get_span_context()
    parent = trace.get_current_span(context).get_span_context()
    return parent if parent.is_valid else None


def _parent_at(context: Context | None) -> SpanContext | None:
    return _parent_in(get_current() if context is None else context)


def _class_of(call: OpenCall | None, held: HeldTrace | None) -> type[LeanSpan]:
    if held is None:
        return LeanSpan if call is None else CallSpan
    return HeldSpan if call is None else HeldCallSpan


def _watch(span: LeanSpan, call: OpenCall | None, held: HeldTrace | None, *, is_dropped: bool) -> None:
    """Tell a span whom to tell of its end, and the trace with which it waits."""
    if held is not None and isinstance(span, HeldSpan | HeldCallSpan):
        span.held_trace = held
    if call is not None and isinstance(span, CallSpan):
        span.watched(call, is_dropped=is_dropped and held is None)


class FinishedSpan:
    """What spans have in common that are emitted when they have ended, by `LeanTracer.emit`.

    Attributes:
        encoded: Encodes one from ids and times; made with the first span, for the limits of its tracer.
    """

    __slots__ = ("attributes", "encoded", "kind", "name")

    def __init__(self, name: str, kind: SpanKind, attributes: dict[str, AttributeValue]) -> None:
        self.name: str = name
        self.kind: SpanKind = kind
        self.attributes: dict[str, AttributeValue] = attributes
        self.encoded: Callable[[SpanContext, SpanContext | None, int, int], bytes] | None = None


def made_lean(tracer: Tracer, exceptions: ErrorDetail) -> LeanTracer:
    """Turn an SDK tracer into ours. The same object: the SDK's provider keeps it, and updates its resource.

    `exceptions`: how much of an exception its spans show.
    """
    resource = tracer.resource
    tracer.__class__ = LeanTracer
    assert isinstance(tracer, LeanTracer)  # noqa: S101 - tells type checkers what the line above does
    scope, info = tracer._instrumentation_scope, tracer.instrumentation_info  # noqa: SLF001 - ours since the line above
    assert isinstance(tracer.span_processor, GuardedProcessors)  # noqa: S101 - as our provider sets it
    limits = tracer._span_limits  # noqa: SLF001
    tracer._origin = SpanOrigin(resource, scope, info, limits, tracer.span_processor, exceptions)  # noqa: SLF001
    tracer._random_ids = getattr(tracer.id_generator, "is_trace_id_random", bool)()  # noqa: SLF001
    return tracer


def sampling_at(ratio: float, tracer: trace.Tracer, guard: Guard) -> trace.Tracer | None:
    """A tracer like this one that keeps a fraction of the traces that have no parent; None if that cannot be made."""
    if not isinstance(tracer, Tracer):
        return None
    other = copy(tracer)
    other.sampler = ratio_sampler(ratio, guard, respects_parent=True)
    return other


def processors_at(context: Context | None) -> GuardedProcessors | None:
    """The processors that get the context's current span; None if it is not one of ours."""
    current = (get_current() if context is None else context).get(SPAN_KEY)
    if not isinstance(current, LeanSpan):
        return None
    processors = current._origin.processor  # noqa: SLF001 - ours
    return processors.behind if isinstance(processors, HeldProcessors) else processors


def may_end_late(source: Span | trace.Tracer) -> bool:
    """Whether a span, or spans of a tracer, may be ended late because nobody but this package sees their end."""
    if type(source) is LeanSpan or type(source) is LeanTracer or type(source) is HeldRequestSpan:
        return source._origin.processor.reads_late  # noqa: SLF001 - ours
    return isinstance(source, Span) and not source.is_recording()
