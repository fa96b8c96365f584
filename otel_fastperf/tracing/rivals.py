"""Notices when spans of one request go to two places, because another provider is in use beside ours."""

import logging
from contextlib import ExitStack
from typing import Final

from opentelemetry import trace

from otel_fastperf.metrics import Metrics
from otel_fastperf.tracing.provider import other_global
from otel_fastperf.tracing.span import LeanSpan

_logger: Final = logging.getLogger("otel_fastperf")


class Rivals:
    """The providers beside ours, from the first request on; before, ours can still give way. Each is told of once."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._told: set[str] = set()
        self._watching = ExitStack()

    def watch(self, server_span: trace.Span | None) -> None:
        """Look now, and each time that metrics are read.

        `server_span`: that of another instrumentation, which ours are to join.
        """
        self._look()
        if server_span is not None and server_span.is_recording() and not isinstance(server_span, LeanSpan):
            self._tell(
                "the SERVER span of another instrumentation goes to a TracerProvider that is not the global one, so it"
                " and ours go to two places. Remedy: pass that provider to trace.set_tracer_provider before"
                " setup_telemetry(app)."
            )
        self._watching.close()
        self._watching.callback(self._metrics.on_refresh(self._look))

    def end(self) -> None:
        """Look no more."""
        self._watching.close()

    def _look(self) -> None:
        other = other_global()
        if other is not None:
            kind = type(other)
            self._tell(
                f"{kind.__module__}.{kind.__qualname__} became the global TracerProvider after the app had started, so"
                " the application's spans go there, and ours do not. Remedy: call setup_telemetry(app) after the code"
                " that sets it."
            )

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _logger.warning("otel_fastperf: %s", what)
