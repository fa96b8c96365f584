"""The span of an app's start-up, as what it runs meanwhile finds it: in the context, or, on a thread without, here.

It is there for as long as the start-up lasts. A task or thread that was started meanwhile keeps the context for good;
once the start-up has ended, the span in it is an invalid one, which is nobody's parent, for any tracer and propagator.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext

from otel_fastperf.internals.spans import SPAN_KEY

#: makes the span of the start-up; never raises
StartSpan = Callable[[], Span]


class StartUpSpan(Span):
    """Stands for the span of a start-up until that has ended.

    The span is started by the first who asks for it, so a start-up in which nothing is traced makes none.
    """

    def __init__(self, start: StartSpan) -> None:
        self._start: Final = start
        #: what starts the span may ask for the current one
        self._lock: Final = threading.RLock()
        self._span: Span | None = None
        self._state = "open"

    def close(self, *, start: bool = False) -> Span | None:
        """Be nobody's parent from now on. Returns the span, which the caller ends; None if there is none.

        `start`: start it if nobody has.
        """
        with self._lock:
            if start:
                self._current()
            self._state = "closed"
            return self._span

    def _current(self) -> Span:
        with self._lock:
            if self._state != "open":
                return INVALID_SPAN
            if self._span is None:
                self._state = "starting"
                self._span = self._start()
                self._state = "open"
            return self._span

    def get_span_context(self) -> SpanContext:
        """That of the span; an invalid one once the start-up has ended."""
        return self._current().get_span_context()

    def is_recording(self) -> bool:
        """False once the start-up has ended."""
        return self._current().is_recording()

    def set_attributes(self, attributes: Any) -> None:
        """See `Span`; does nothing once the start-up has ended, as all that follow."""
        self._current().set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """See `Span`."""
        self._current().set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """See `Span`."""
        self._current().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """See `Span`."""
        self._current().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """See `Span`."""
        self._current().update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """See `Span`."""
        self._current().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - the API's signature
    ) -> None:
        """See `Span`."""
        self._current().record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the start-up ends the span."""


class StartUps:
    """The start-up that is under way in this process; of several, the one that began last."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: tuple[StartUpSpan, ...] = ()

    @contextmanager
    def under_way(self, span: StartUpSpan) -> Iterator[None]:
        """A start-up is under way until the context manager exits."""
        self._spans = (*self._spans, span)
        try:
            yield
        finally:
            self._spans = tuple(each for each in self._spans if each is not span)

    def joined(self, context: Context) -> Context:
        """The context of work outside of any request, which is the start-up's if it has no span of its own."""
        spans = self._spans
        return Context({**context, SPAN_KEY: spans[-1]}) if spans and SPAN_KEY not in context else context
