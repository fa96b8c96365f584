"""Finished spans kept in this process, for when there is nowhere to send them."""

from collections import deque

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.tracing.safe_sdk import ReadsLate


class SpanStore(ReadsLate):
    """The newest `size` finished and sampled spans."""

    def __init__(self, size: int) -> None:
        self._spans: deque[ReadableSpan] = deque(maxlen=size)

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._spans.append(span)

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Oldest first."""
        return tuple(self._spans.copy())

    def clear(self) -> None:
        """Forget them."""
        self._spans.clear()
