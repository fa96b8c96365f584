"""Spans of a request that the sampler drops, and that are exported all the same if the request turns out to be notable.

They record like others, but their context says that they are not sampled, so what a service calls does not record. No
processor but ours gets them. Without a reason to keep them they are as good as spans that were never recorded.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags

from otel_fastperf.internals.held_traces import HeldTrace
from otel_fastperf.internals.spans import SPAN_KEY
from otel_fastperf.tracing.safe_sdk import GuardedProcessors, ReadsLate
from otel_fastperf.tracing.span import CallSpan, LeanSpan, SpanOrigin

#: bytes of a span without its attributes, and of one that waits as a template with ids and times
_SPAN_BYTES: Final = 800
TEMPLATE_BYTES: Final = 400


class HeldProcessors(GuardedProcessors):
    """Stands before the processors of a provider: spans wait, and only ours get those that are kept."""

    def __init__(self, behind: GuardedProcessors) -> None:
        super().__init__(behind.guard)
        self.behind: Final = behind

    def on_end(self, span: ReadableSpan) -> None:
        """Have the span wait, if it is still to be decided."""
        assert isinstance(span, HeldSpan | HeldCallSpan)  # noqa: S101 - no other span has this in its origin
        trace = span.held_trace
        if not trace.is_dropped:
            trace.put(span.release, _weight(span) if trace.is_open else 0)

    def pass_on(self, span: LeanSpan) -> None:
        """Give a span that is kept to those processors that are ours."""
        for processor in self.behind.processors:
            if isinstance(processor, ReadsLate):
                processor.on_end(span)


def held_origin(origin: SpanOrigin) -> SpanOrigin:
    """The same tracer's for its spans that are held."""
    return SpanOrigin(
        origin.resource,
        origin.scope,
        origin.info,
        origin.limits,
        HeldProcessors(origin.processor),
        origin.exceptions,
    )


class HeldSpan(LeanSpan):
    """A span below that of a held request."""

    __slots__ = ("held_trace",)

    held_trace: HeldTrace

    def get_span_context(self) -> SpanContext:
        """Ids that are not sampled; invalid ones once the request is over, unless it is kept."""
        return _context_of(self._context, self.held_trace)

    def is_recording(self) -> bool:
        """Whether the span has not ended, and may still be kept."""
        return self._end_time is None and not self.held_trace.is_dropped

    def end(self, end_time: int | None = None) -> None:
        """End the span. Nothing is computed for one that is not kept."""
        if self.held_trace.is_dropped:
            self._deferred = None
        super().end(end_time)

    def release(self) -> None:
        """Pass on the span, which has ended: its trace is kept."""
        _release(self)


class HeldRequestSpan(HeldSpan):
    """The SERVER span of a held request."""

    __slots__ = ()

    def decide(self, *, is_error: bool, seconds: float) -> None:
        """Keep its trace or not: the request has ended, and took this long."""
        trace = self.held_trace
        trace.decide(is_error=is_error, seconds=seconds)
        if trace.kept_for:
            self.set_attribute("fastperf.kept_for", trace.kept_for)
            if trace.lost:
                self.set_attribute("fastperf.kept_without", trace.lost)

    def end(self, end_time: int | None = None) -> None:
        """End the span, and with it the wait: a request that could not be judged is not kept."""
        self.held_trace.drop()
        super().end(end_time)


class HeldCallSpan(CallSpan):
    """The span of an outgoing call that is watched, below that of a held request.

    It ends like any other: the call is measured, whatever becomes of the trace.
    """

    __slots__ = ("held_trace",)

    held_trace: HeldTrace

    def get_span_context(self) -> SpanContext:
        """As for `HeldSpan`."""
        return _context_of(self._context, self.held_trace)

    def release(self) -> None:
        """Pass on the span, which has ended: its trace is kept."""
        _release(self)


def held_trace_at(context: Context | None) -> HeldTrace | None:
    """The held trace that spans in this context belong to; None if there is none, or if it is not kept."""
    current = (get_current() if context is None else context).get(SPAN_KEY)
    if isinstance(current, HeldSpan | HeldCallSpan) and not current.held_trace.is_dropped:
        return current.held_trace
    return None


def sampled(context: SpanContext) -> SpanContext:
    """The same ids with the flag of what is exported."""
    flags = TraceFlags(context.trace_flags | TraceFlags.SAMPLED)
    return SpanContext(context.trace_id, context.span_id, context.is_remote, flags, context.trace_state)


def _context_of(own: SpanContext, trace: HeldTrace) -> SpanContext:
    return INVALID_SPAN_CONTEXT if trace.is_over and trace.is_dropped else own


def _release(span: LeanSpan) -> None:
    span._context = sampled(span._context)  # noqa: SLF001 - ours
    processors = span._origin.processor  # noqa: SLF001
    assert isinstance(processors, HeldProcessors)  # noqa: S101 - see `held_origin`
    processors.pass_on(span)


def _weight(span: LeanSpan) -> int:
    """The bytes that a span keeps, roughly."""
    return _SPAN_BYTES + _bytes_of(span.own_attributes) + sum(_bytes_of(event.attributes) for event in span.events)


def _bytes_of(attributes: Mapping[str, Any] | None) -> int:
    number = 0
    for value in (attributes or {}).values():
        number += sum(map(sys.getsizeof, value)) if type(value) is tuple else sys.getsizeof(value)
    return number
