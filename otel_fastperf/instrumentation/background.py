"""Traces background tasks. Each has its own span, below the span of its request.

Starlette runs them after the last byte of the response and has no hook for that, so `BackgroundTask.__call__` is
wrapped.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span
from starlette.background import BackgroundTask

from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.internals.redaction import error_type
from otel_fastperf.internals.spans import fail_span
from otel_fastperf.requests.record import RequestRecord, current_record
from otel_fastperf.signals import Signals


@contextmanager
def instrument_background(signals: Signals) -> Iterator[None]:
    """Trace the background tasks of requests that belong to `signals`."""
    with subscribed(BackgroundTask, "__call__", _traced, signals, signals):
        yield


def _traced(original: Callable[[BackgroundTask], Awaitable[None]], patch: Patch[Signals]) -> Any:
    @wraps(original)
    async def call(self: BackgroundTask) -> None:
        record, signals = _request_of(patch)
        if record is None or signals is None:
            await original(self)
            return
        record.background_tasks += 1
        try:
            await observed(self, record, signals)
        finally:
            record.background_tasks -= 1

    async def observed(self: BackgroundTask, record: RequestRecord, signals: Signals) -> None:
        span = _start(self, record, signals)
        if span is None:
            await original(self)
            return
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            try:
                await original(self)
            except Exception as error:
                _fail(span, error, signals)
                raise
            finally:
                _end(span, signals)

    return call


def _request_of(patch: Patch[Signals]) -> tuple[RequestRecord | None, Signals | None]:
    """The request that the task belongs to, and its telemetry; None for tasks of others."""
    try:
        record = current_record()
        return record, None if record is None else patch.subscribers.get(id(record.owner))
    except Exception as error:  # noqa: BLE001 - the task runs untraced
        for signals in patch.subscribers.values():
            signals.guard.failed("background", error)
        return None, None


def _start(task: BackgroundTask, record: RequestRecord, signals: Signals) -> Span | None:
    try:
        # contrib's FastAPI instrumentation traces them too
        is_traced = hasattr(BackgroundTask, "_otel_original_call")
        if record.excluded or is_traced:
            return None
        name = getattr(task.func, "__name__", type(task.func).__name__)
        module = getattr(task.func, "__module__", "")
        attributes: dict[str, Any] = {
            "code.function.name": f"{module}.{getattr(task.func, '__qualname__', name)}",
        }
        return signals.tracer.start_span(f"BackgroundTask {name}", attributes=attributes)
    except Exception as error:  # noqa: BLE001 - the task runs untraced
        signals.guard.failed("background", error)
        return None


def _fail(span: Span, error: Exception, signals: Signals) -> None:
    try:
        fail_span(span, error_type(error), error, signals.exceptions)
    except Exception as failure:  # noqa: BLE001 - the app's own exception must be the one that is raised
        signals.guard.failed("background", failure)


def _end(span: Span, signals: Signals) -> None:
    try:
        span.end()
    except Exception as failure:  # noqa: BLE001 - the task has succeeded
        signals.guard.failed("background", failure)
