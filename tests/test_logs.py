"""Every log record made inside a request contains its trace, span and route."""

import logging
from collections.abc import Iterator, MutableMapping

import pytest
import structlog
from opentelemetry import trace

from otel_fastperf.internals.guard import Guard
from otel_fastperf.logs import add_trace_context, correlate_logs
from otel_fastperf.requests.record import CURRENT, RequestRecord
from tests.conftest import Probe

GUARD = Guard(lambda part: None)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Records of the logger `app`, as handlers get them."""
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    handler, logger = Keep(), logging.getLogger("app")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(handler)


def test_a_record_made_inside_a_span_has_the_ids_of_the_span(probe: Probe, records: list[logging.LogRecord]) -> None:
    with correlate_logs(GUARD), probe.signals.tracer.start_as_current_span("work") as span:
        logging.getLogger("app").info("hello")
    context = span.get_span_context()
    assert records[0].__dict__["trace_id"] == trace.format_trace_id(context.trace_id)
    assert records[0].__dict__["span_id"] == trace.format_span_id(context.span_id)
    assert records[0].__dict__["route"] == ""


def test_a_record_made_outside_has_empty_ids_so_that_formats_work(records: list[logging.LogRecord]) -> None:
    with correlate_logs(GUARD):
        logging.getLogger("app").info("hello")
    assert (
        logging.Formatter("%(message)s [%(trace_id)s] [%(span_id)s] [%(route)s]").format(records[0]) == "hello [] [] []"
    )


def test_fields_in_the_app_s_extra_take_precedence_and_never_fail(
    probe: Probe, records: list[logging.LogRecord]
) -> None:
    with correlate_logs(GUARD), probe.signals.tracer.start_as_current_span("work"):
        logging.getLogger("app").info("hello", extra={"trace_id": "mine", "route": "north"})
    assert (records[0].__dict__["trace_id"], records[0].__dict__["route"]) == ("mine", "north")


def test_records_are_as_before_when_undone_in_any_order(records: list[logging.LogRecord]) -> None:
    before = logging.Logger.makeRecord
    first, second = correlate_logs(GUARD), correlate_logs(GUARD)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    logging.getLogger("app").info("one is left")
    second.__exit__(None, None, None)
    logging.getLogger("app").info("none is left")
    assert "trace_id" in records[0].__dict__
    assert "trace_id" not in records[1].__dict__
    logging.Logger.makeRecord = before  # type: ignore[method-assign]


def test_the_structlog_processor_adds_the_context_inside_a_span_only(probe: Probe) -> None:
    lines: list[dict[str, object]] = []

    def keep(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        lines.append(dict(event))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[add_trace_context, keep])
    logger.info("outside")
    with probe.signals.tracer.start_as_current_span("work") as span:
        record = RequestRecord(probe.signals, {"type": "http", "path": "/x"}, span, 0.0)
        token = CURRENT.set(record)
        logger.info("inside", route="mine")
        CURRENT.reset(token)
    assert set(lines[0]) == {"event"}
    assert lines[1]["trace_id"] == trace.format_trace_id(span.get_span_context().trace_id)
    assert lines[1]["route"] == "mine"
