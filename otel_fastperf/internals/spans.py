"""Shared by all spans: how they record a failure, and the exemplar that refers to them."""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.code_attributes import CODE_FILE_PATH, CODE_FUNCTION_NAME, CODE_LINE_NUMBER
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.redaction import describe_error

#: the context's key for the current span, which `trace.set_span_in_context` keeps to itself
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


def fail_span(span: Span, kind: str, error: BaseException | None) -> None:
    """Mark the span as failed. `kind` is its `error.type`, `error` the exception, if one was raised.

    The `exception` event and the status contain no bound SQL parameters.
    """
    if not span.is_recording():
        return
    span.set_attribute("error.type", kind)
    if error is None:
        span.set_status(Status(StatusCode.ERROR))
        return
    text = describe_error(error)
    span.set_status(Status(StatusCode.ERROR, text.message))
    span.add_event(
        "exception",
        {"exception.type": text.type, "exception.message": text.message, "exception.stacktrace": text.stacktrace},
    )


def exemplar_of(span: Span) -> dict[str, str] | None:
    """`{"trace_id": 32 hex digits, "span_id": 16}` for a histogram; None if the span is not sampled."""
    context = span.get_span_context()
    if not context.trace_flags.sampled:
        return None
    return {"trace_id": format(context.trace_id, "032x"), "span_id": format(context.span_id, "016x")}


def code_attributes(site: CallSite | None) -> dict[str, AttributeValue]:
    """A line as attributes, `code.*`: https://opentelemetry.io/docs/specs/semconv/code/. Empty for None."""
    if site is None:
        return {}
    return {CODE_FILE_PATH: site.file, CODE_LINE_NUMBER: site.line, CODE_FUNCTION_NAME: site.function}
