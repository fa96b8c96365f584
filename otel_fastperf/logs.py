"""Trace id, span id and route in log records: on every record of the standard library, and in a structlog processor.

logging.Formatter("%(levelname)s %(message)s trace_id=%(trace_id)s span_id=%(span_id)s route=%(route)s")
structlog.configure(processors=[add_trace_context, ...])
"""

import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from opentelemetry import trace

from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import current_record


def trace_context() -> dict[str, str]:
    """`{"trace_id": 32 hex digits, "span_id": 16 hex digits, "route": template}`; each is `""` if there is none."""
    context = trace.get_current_span().get_span_context()
    record = current_record()
    route = (record.route if record is not None else None) or ""
    if not context.is_valid:
        return {"trace_id": "", "span_id": "", "route": route}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "route": route,
    }


def add_trace_context(_logger: object, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that adds `trace_id`, `span_id` and `route` inside a request or a span.

    Keys that the caller has set stay as they are.
    """
    try:
        context = trace_context()
    except Exception:  # noqa: BLE001 - the app's record is logged without its trace
        return event_dict
    if any(context.values()):
        for key, value in context.items():
            event_dict.setdefault(key, value)
    return event_dict


@contextmanager
def correlate_logs(guard: Guard) -> Iterator[None]:
    """Give every record of every standard library logger the attributes `trace_id`, `span_id` and `route`.

    Wraps `Logger.makeRecord` instead of setting a record factory: makeRecord raises KeyError if `extra=` contains an
    attribute that the factory has set, so a factory would break apps that log with `extra={"trace_id": …}`. With the
    wrapper, the app's value wins.
    """
    with subscribed(logging.Logger, "makeRecord", _adding_context, object(), guard):
        yield


def _adding_context(original: Callable[..., logging.LogRecord], patch: Patch[Guard]) -> Any:
    @wraps(original)
    def make_record(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = original(self, *args, **kwargs)
        if patch.subscribers:
            try:
                for key, value in trace_context().items():
                    record.__dict__.setdefault(key, value)
            except Exception as error:  # noqa: BLE001 - the app's record is logged without its trace
                for guard in patch.subscribers.values():
                    guard.failed("logs", error)
        return record

    return make_record
