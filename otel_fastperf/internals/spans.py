"""Shared by all spans: how they record a failure, and the exemplar that refers to them."""

from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.code_attributes import CODE_FILE_PATH, CODE_FUNCTION_NAME, CODE_LINE_NUMBER
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.redaction import ErrorDetail, describe_error

if TYPE_CHECKING:
    from otel_fastperf.internals.held_traces import HeldTrace

#: the context's key for the current span, which `trace.set_span_in_context` keeps to itself
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())

#: seconds between two exemplars; an observation of at least `_ALWAYS_EXEMPLARY` seconds always gets one
_EXEMPLAR_PAUSE: Final = 0.1
_ALWAYS_EXEMPLARY: Final = 0.1


def fail_span(span: Span, kind: str, error: BaseException | None, detail: ErrorDetail) -> None:
    """Mark the span as failed. `kind` is its `error.type`, `error` the exception, if one was raised.

    The `exception` event and the status show as much of it as `detail` says.
    """
    if not span.is_recording():
        return
    span.set_attribute("error.type", kind)
    if error is None:
        span.set_status(Status(StatusCode.ERROR))
        return
    text = describe_error(error, detail)
    span.set_status(Status(StatusCode.ERROR, text.message or None))
    span.add_event(
        "exception",
        {"exception.type": text.type, "exception.message": text.message, "exception.stacktrace": text.stacktrace},
    )


def exemplar_of(span: Span) -> dict[str, str] | None:
    """`{"trace_id": 32 hex digits, "span_id": 16}` for a histogram; None if the span is not exported."""
    context = span.get_span_context()
    if not context.trace_flags.sampled and not _is_kept(span):
        return None
    return {"trace_id": format(context.trace_id, "032x"), "span_id": format(context.span_id, "016x")}


def may_be_exported(span: Span) -> bool:
    """Whether it is sampled, or may still be kept."""
    trace: HeldTrace | None = getattr(span, "held_trace", None)
    return span.get_span_context().trace_flags.sampled if trace is None else not trace.is_dropped


def keep_for(reason: str, span: Span) -> None:
    """Keep the trace of a span for this reason, if the sampler has dropped it and it is held."""
    trace: HeldTrace | None = getattr(span, "held_trace", None)
    if trace is not None:
        trace.keep_for(reason)


def _is_kept(span: Span) -> bool:
    trace: HeldTrace | None = getattr(span, "held_trace", None)
    return trace is not None and bool(trace.kept_for)


class Exemplars:
    """Chooses the observations of a histogram that refer to their spans: the slow ones, and ten others a second.

    Prometheus keeps one for each series and scrape, and to make one takes 7 us.
    """

    __slots__ = ("_next", "_on")

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self._next = 0.0

    def of(self, span: Span, seconds: float, now: float) -> dict[str, str] | None:
        """The exemplar of an observation of a duration in seconds at `now` by `time.perf_counter()`; None for none."""
        return exemplar_of(span) if self.wants(seconds, now) else None

    def wants(self, seconds: float, now: float) -> bool:
        """Whether this observation is to refer to its span; if so, the others wait for their turn."""
        if not self._on or (seconds < _ALWAYS_EXEMPLARY and now < self._next):
            return False
        self._next = now + _EXEMPLAR_PAUSE
        return True


def code_attributes(site: CallSite | None) -> dict[str, AttributeValue]:
    """A line as attributes, `code.*`: https://opentelemetry.io/docs/specs/semconv/code/. Empty for None."""
    if site is None:
        return {}
    return {CODE_FILE_PATH: site.file, CODE_LINE_NUMBER: site.line, CODE_FUNCTION_NAME: site.function}
