"""Tells of each outgoing call: of the start and the end of its CLIENT or PRODUCER span."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from otel_fastperf.tracing.provider import FastPerfTracerProvider, processor_added
from otel_fastperf.tracing.span import OUTGOING, CallWatcher, OpenCall

#: calls that are open at the same time; further ones are not watched
_MOST_OPEN: Final = 10_000


@contextmanager
def calls_watched(provider: trace.TracerProvider, watcher: CallWatcher) -> Iterator[None]:
    """Have `watcher` called at the start of each outgoing call, until the context manager exits.

    Our provider tells of calls that the sampler drops, too; that of another library only of those that it records.
    """
    if isinstance(provider, FastPerfTracerProvider):
        provider.guarded.call_watcher = watcher
        try:
            yield
        finally:
            provider.guarded.call_watcher = None
    elif isinstance(provider, TracerProvider):
        with processor_added(provider, _CallProcessor(watcher)):
            yield
    else:
        yield


class _CallProcessor(SpanProcessor):
    """Watches the calls of a provider that is not ours."""

    def __init__(self, watcher: CallWatcher) -> None:
        self._watcher = watcher
        self._open: dict[int, OpenCall] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a call."""
        if span.kind not in OUTGOING or len(self._open) >= _MOST_OPEN:
            return
        outer = trace.get_current_span(parent_context).get_span_context().span_id
        scope = span.instrumentation_scope
        call = self._watcher("" if scope is None else scope.name, outer in self._open)
        context = span.get_span_context()
        if call is not None and context is not None:
            self._open[context.span_id] = call

    def on_end(self, span: ReadableSpan) -> None:
        """Tell of its end."""
        context = span.get_span_context()
        call = None if context is None else self._open.pop(context.span_id, None)
        if call is not None:
            call.end(span)
