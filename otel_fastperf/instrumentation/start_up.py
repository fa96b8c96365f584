"""One span for an app's start-up, so that all it runs there makes one trace: tables, migrations, seeding, warm-up.

Start-up is the first half of the app's lifespan. Its span is the current one in the lifespan's task meanwhile, and so
in what that awaits or starts; statements on threads without a context join it too. What goes on after the start-up does
so without it: see `StartUpSpan`.
"""

import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from otel_fastperf.internals.redaction import error_type
from otel_fastperf.internals.spans import SPAN_KEY, fail_span
from otel_fastperf.internals.start_up import StartUpSpan
from otel_fastperf.signals import Signals

#: as ASGI calls it: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
_NAME: Final = "lifespan startup"
#: the attribute in which contrib's ASGI instrumentation names a message, and this one
_MESSAGE: Final = ("asgi.event.type", "lifespan.startup")


class TracedStartUp(AbstractAsyncContextManager[Any]):
    """A lifespan whose first half has a span."""

    def __init__(self, lifespan: AbstractAsyncContextManager[Any], signals: Signals) -> None:
        self._lifespan = lifespan
        self._signals = signals

    async def __aenter__(self) -> Any:
        """The app's start-up, traced."""
        try:
            start_up = _StartUp(self._signals)
        except Exception as error:  # noqa: BLE001 - the app starts untraced
            self._signals.guard.failed("start_up", error)
            return await self._lifespan.__aenter__()
        with self._signals.start_ups.under_way(start_up.span):
            try:
                state = await self._lifespan.__aenter__()
            except BaseException as error:
                start_up.ended(error)
                raise
            start_up.ended(None)
        return state

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """The app's shutdown."""
        return await self._lifespan.__aexit__(kind, error, traceback)


class _StartUp:
    """A start-up under way, in the context of its task."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._started_ns = time.time_ns()
        self._before = otel_context.get_current()
        self.span: StartUpSpan = StartUpSpan(self._start)
        otel_context.attach(Context({**self._before, SPAN_KEY: self.span}))

    def _start(self) -> Span:
        try:
            return self._signals.tracer.start_span(
                _NAME, self._before, attributes=dict((_MESSAGE,)), start_time=self._started_ns
            )
        except Exception as error:  # noqa: BLE001 - a sampler or processor fails: the app starts untraced
            self._signals.guard.failed("start_up", error)
            return INVALID_SPAN

    def ended(self, error: BaseException | None) -> None:
        """End the span. One that nobody asked for is started for a failure only."""
        try:
            # statements that have ended, and whose spans wait, find their parent now or never
            self._signals.backlog.drain()
            span = self.span.close(start=isinstance(error, Exception))
            if span is not None:
                if isinstance(error, Exception):
                    fail_span(span, error_type(error), error, self._signals.exceptions)
                span.end()
        except Exception as failure:  # noqa: BLE001 - the app has started, or its own failure is the one to raise
            self._signals.guard.failed("start_up", failure)
        self._leave()

    def _leave(self) -> None:
        """Leave the context as it is by now, without our span.

        No token is used: the app may have put a span or baggage of its own into the context, for good.
        """
        now = otel_context.get_current()
        if now.get(SPAN_KEY) is self.span:
            rest = {key: value for key, value in now.items() if key != SPAN_KEY}
            otel_context.attach(Context(rest | {key: self._before[key] for key in (SPAN_KEY,) if key in self._before}))
