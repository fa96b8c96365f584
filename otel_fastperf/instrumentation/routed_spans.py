"""A tracer provider for instrumentations that belong to the whole process, for all telemetries of the process.

It makes a span with the provider of the telemetry that serves the request, and outside of requests with that of the
telemetry that was set up last.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry.trace import INVALID_SPAN, Span, Tracer, TracerProvider, use_span

from otel_fastperf.requests.record import current_record
from otel_fastperf.signals import Signals


class SpanUser(Protocol):
    """One telemetry that wants the spans."""

    @property
    def signals(self) -> Signals: ...  # noqa: D102
    @property
    def provider(self) -> TracerProvider: ...  # noqa: D102


class RoutedProvider(TracerProvider):
    """Sends spans where the telemetry that serves the request sends its own.

    Attributes:
        users: The telemetries, in the order of their set-up. Replaced as a whole, never changed.
    """

    def __init__(self, users: tuple[SpanUser, ...], is_unwanted: Callable[[], bool] = bool) -> None:
        """`is_unwanted()` says at the start of a span that it should not be made."""
        self.users: tuple[SpanUser, ...] = users
        self.is_unwanted: Callable[[], bool] = is_unwanted

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """Return one tracer for all telemetries."""
        return _RoutedTracer(self, args, kwargs)


class _RoutedTracer(Tracer):
    def __init__(self, provider: RoutedProvider, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._provider = provider
        self._scope = args, kwargs
        self._users: tuple[SpanUser, ...] = ()
        self._tracers: tuple[tuple[Signals, Tracer], ...] = ()

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        """Start the span; an invalid one for excluded requests, and for those of telemetries that want none."""
        try:
            record = current_record()
            if self._provider.is_unwanted():
                return INVALID_SPAN
            for signals, tracer in self._routes():
                if record is None or (record.owner is signals and not record.excluded):
                    return tracer.start_span(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the call is made without a span
            for user in self._provider.users[:1]:
                user.signals.guard.failed("clients", error)
        return INVALID_SPAN

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self,
        *args: Any,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
        **kwargs: Any,
    ) -> Iterator[Span]:
        """Start the span, and make it the current one."""
        span = self.start_span(
            *args, record_exception=record_exception, set_status_on_exception=set_status_on_exception, **kwargs
        )
        with use_span(
            span,
            end_on_exit=end_on_exit,
            record_exception=record_exception,
            set_status_on_exception=set_status_on_exception,
        ):
            yield span

    def _routes(self) -> tuple[tuple[Signals, Tracer], ...]:
        users = self._provider.users
        if users is not self._users:
            args, kwargs = self._scope
            self._tracers = tuple((user.signals, user.provider.get_tracer(*args, **kwargs)) for user in users[::-1])
            self._users = users
        return self._tracers
