"""Log records of the standard library as OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/logs/data-model/."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.semconv.attributes.code_attributes import CODE_FILE_PATH, CODE_FUNCTION_NAME, CODE_LINE_NUMBER
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.semconv.attributes.http_attributes import HTTP_ROUTE

from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.redaction import ErrorDetail, describe_error

#: what every record has, and what `logs` adds: not from `extra=`
_ORDINARY: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    *("message", "asctime", "taskName", "trace_id", "span_id", "route")
}
#: attribute of our own warnings, whose findings are sent as events
_FINDING: Final = "fastperf_finding"
_PLAIN: Final = (str, bool, int, float)
#: characters of a value of another type
_LONGEST: Final = 4096
#: levels of the standard library -> severities, each from its level on
_SEVERITIES: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.DEBUG, SeverityNumber.DEBUG, "DEBUG"),
    (logging.NOTSET, SeverityNumber.TRACE, "TRACE"),
)


@contextmanager
def root_logged(emit: Callable[..., None], detail: ErrorDetail, guard: Guard) -> Iterator[None]:
    """Emit what reaches the root logger, by `LogPipeline.emit`, until the context manager exits."""
    handler = OtlpHandler(emit, detail, guard)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class OtlpHandler(logging.Handler):
    """Emits each record by the OpenTelemetry logger of its name, in the current context. Never raises."""

    def __init__(self, emit: Callable[..., None], detail: ErrorDetail, guard: Guard) -> None:
        """`detail`: how much of an exception is shown."""
        super().__init__()
        self._emit = emit
        self._detail = detail
        self._guard = guard

    def emit(self, record: logging.LogRecord) -> None:
        """Emit it, unless an export logs it, or a finding stands behind it, which is an event of its own."""
        if hasattr(record, _FINDING) or not is_instrumentation_enabled():
            return
        try:
            number, text = _severity(record.levelno)
            self._emit(
                record.name,
                timestamp=int(record.created * 1e9),
                severity_number=number,
                severity_text=text,
                body=record.getMessage(),
                attributes=dict(_attributes(record, self._detail)),
            )
        except Exception as error:  # noqa: BLE001 - costs the record's copy; the app's own handlers have it
            self._guard.failed("logs_export", error)


def _severity(level: int) -> tuple[SeverityNumber, str]:
    return next((number, text) for least, number, text in _SEVERITIES if level >= least or not least)


def _attributes(record: logging.LogRecord, detail: ErrorDetail) -> Iterator[tuple[str, Any]]:
    yield CODE_FILE_PATH, record.pathname
    yield CODE_LINE_NUMBER, record.lineno
    yield CODE_FUNCTION_NAME, record.funcName or ""
    route = getattr(record, "route", "")
    if route and isinstance(route, str):
        yield HTTP_ROUTE, route
    for name, value in vars(record).items():
        if name not in _ORDINARY and value is not None:
            yield name, _plain(value)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        shown = describe_error(error, detail)
        yield EXCEPTION_TYPE, shown.type
        yield EXCEPTION_MESSAGE, shown.message
        yield EXCEPTION_STACKTRACE, shown.stacktrace


def _plain(value: object) -> Any:
    """A value that every exporter can write."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple) and all(type(each) is str for each in value):
        return tuple(value)
    return str(value)[:_LONGEST]
