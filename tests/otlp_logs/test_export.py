"""Log records of real requests, and findings, reach an OTLP receiver with the ids of their traces."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_fastperf import Finding, Kind, Settings, SetupError, Severity, Telemetry, setup_telemetry
from tests.otlp import Receiver, rejected
from tests.serving import free_port, wait_until

LOGGER = logging.getLogger("shop.orders")


@contextmanager
def observed(receiver: Receiver, **options: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    """A service that logs and exports its log records."""
    app = FastAPI()

    @app.get("/items/{item}")
    def item(item: int) -> int:
        LOGGER.warning("item %d is gone", item, extra={"stock": 3, "shelf": object(), "tags": ["a", "b"]})
        return item

    @app.get("/fails")
    def fails() -> None:
        card = "no such card: 4711"
        try:
            int(card)
        except ValueError:
            LOGGER.exception("payment failed")

    logs = {"exporter": "otlp", "protocol": receiver.protocol} | options.pop("logs", {})
    traces = {"exporter": "none", "base_endpoint": receiver.endpoint}
    settings = Settings(service_name="shop", traces=traces, logs=logs, **options)
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app) as client:
        yield client, telemetry


def of(receiver: Receiver, name: str) -> list[LogRecord]:
    return [record for logger, record in receiver.logs if logger == name]


def attributes(record: LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in record.attributes:
        kind = str(each.value.WhichOneof("value"))
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_record_has_its_trace_its_route_and_its_extra_fields(protocol: Any) -> None:
    with Receiver(protocol) as receiver:
        with observed(receiver) as (client, telemetry):
            assert client.get("/items/7").status_code == 200
            (span,) = telemetry.spans()
            assert "logs export: on, OTLP " in telemetry.describe()
        (record,) = of(receiver, "shop.orders")
    context = span.get_span_context()
    assert context is not None
    assert record.body.string_value == "item 7 is gone"
    assert (record.severity_text, record.severity_number) == ("WARN", 13)
    assert (record.trace_id, record.span_id) == (context.trace_id.to_bytes(16), context.span_id.to_bytes(8))
    found = attributes(record)
    assert (found["http.route"], found["stock"], found["tags"]) == ("/items/{item}", 3, ["a", "b"])
    assert found["shelf"].startswith("<object object")
    assert found["code.file.path"] == __file__
    assert not {"trace_id", "span_id", "route"} & found.keys()


@pytest.mark.parametrize(
    ("detail", "shown"),
    [("full", "invalid literal for int() with base 10: 'no such card: 4711'"), ("type", "")],
    ids=["full", "type"],
)
def test_an_exception_is_shown_in_the_detail_that_settings_ask_for(detail: Any, shown: str) -> None:
    with Receiver() as receiver:
        with observed(receiver, exceptions=detail) as (client, _):
            client.get("/fails")
        (record,) = of(receiver, "shop.orders")
    found = attributes(record)
    assert (found["exception.type"], found["exception.message"]) == ("ValueError", shown)
    assert ("4711" in found["exception.stacktrace"]) == bool(shown)


def test_a_finding_is_an_event_in_the_trace_of_its_request_and_no_second_record() -> None:
    finding = Finding(kind=Kind.SLOW_QUERY, severity=Severity.WARNING, subject="s", message="m", remedy="r")
    with Receiver() as receiver:
        with observed(receiver) as (client, telemetry):
            telemetry.add_detector(lambda _request: [finding])
            client.get("/items/1")
            client.get("/items/2")
            first = telemetry.spans()[0].get_span_context()
        events = [record for _, record in receiver.logs if record.event_name]
        texts = [record.body.string_value for _, record in receiver.logs]
    assert first is not None
    (event,) = events
    assert (event.event_name, event.severity_text, event.trace_id) == (
        "fastperf.slow_query",
        "WARN",
        first.trace_id.to_bytes(16),
    )
    found = attributes(event)
    assert (found["fastperf.finding.kind"], found["fastperf.finding.remedy"]) == ("slow_query", "r")
    assert (found["http.route"], found["http.request.method"]) == ("/items/{item}", "GET")
    assert [text for text in texts if text.startswith("slow_query in")] == []


@pytest.mark.parametrize("answer", [rejected(400), None], ids=["rejected", "dead"])
def test_what_a_collector_in_trouble_does_not_take_is_counted_and_told_once(
    answer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # seconds in which the SDK's exporter tries again
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "1")
    with Receiver() as receiver:
        if answer is None:
            receiver.endpoint = f"http://127.0.0.1:{free_port()}"
        else:
            receiver.answer = answer
        with observed(receiver) as (client, telemetry):
            lost = telemetry.metrics.telemetry_errors.child("logs_export")
            assert client.get("/items/1").status_code == 200
            wait_until(lambda: lost._value.get() >= 1, what="the record is lost")
            assert client.get("/items/2").status_code == 200
            wait_until(lambda: lost._value.get() >= 2, what="another one is lost")
        told = [each for each in caplog.records if "log records do not reach" in each.getMessage()]
        assert len(told) == 1
        assert not [each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_without_a_log_store_is_told_of_with_its_remedy(
    protocol: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if "log records do not reach" in each.getMessage()]

    with Receiver(protocol) as receiver:
        receiver.answer = rejected(404)
        with observed(receiver) as (client, _):
            client.get("/items/1")
            wait_until(said, what="a warning")
    [told] = said()
    assert "which takes no log records; the app's own handlers have them." in told
    assert "Remedy: a log store behind that collector" in told
    assert "unset OTEL_LOGS_EXPORTER" in told


def test_what_a_full_queue_drops_is_counted() -> None:
    with Receiver() as receiver:
        receiver.answer = rejected(400)
        with observed(receiver, logs={"queue_size": 1}) as (client, telemetry):
            for number in range(5):
                client.get(f"/items/{number}")
        assert telemetry.metrics.telemetry_errors.child("logs_export")._value.get() >= 5


def test_it_is_off_unless_asked_for_and_beside_a_handler_of_opentelemetry() -> None:
    class LoggingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            """As OpenTelemetry's, which somebody else has added."""

    with Receiver() as receiver:
        with observed(receiver, logs={"exporter": "console"}) as (client, telemetry):
            client.get("/items/1")
            assert "logs export: off, OTEL_LOGS_EXPORTER does not contain otlp" in telemetry.describe()
        handler = LoggingHandler()
        logging.getLogger().addHandler(handler)
        try:
            with observed(receiver) as (client, telemetry):
                client.get("/items/1")
                assert "logs export: off, the root logger has a handler of OpenTelemetry" in telemetry.describe()
        finally:
            logging.getLogger().removeHandler(handler)
        assert receiver.logs == []


def test_nothing_stays_on_the_root_logger() -> None:
    before = list(logging.getLogger().handlers)
    with Receiver() as receiver, observed(receiver) as (client, _):
        assert len(logging.getLogger().handlers) == len(before) + 1
        client.get("/items/1")
    assert logging.getLogger().handlers == before


def test_a_missing_exporter_is_said_at_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import opentelemetry.exporter.otlp.proto.http

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    monkeypatch.delattr(opentelemetry.exporter.otlp.proto.http, "_log_exporter", raising=False)
    with pytest.raises(SetupError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        setup_telemetry(FastAPI(), settings=Settings(logs={"exporter": "otlp"}))


def test_what_the_exporter_logs_while_it_is_made_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "not a header")
    with Receiver() as receiver:
        with observed(receiver) as (client, _):
            assert client.get("/items/1").status_code == 200
        assert [record.body.string_value for record in of(receiver, "shop.orders")] == ["item 1 is gone"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("headers", ["", "not a header"], ids=["plain", "the exporter logs"])
def test_a_forked_process_exports_its_own_records(headers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", headers)
    with Receiver() as receiver, observed(receiver) as (client, telemetry):
        client.get("/items/1")
        wait_until(lambda: len(of(receiver, "shop.orders")) == 1, what="the parent's record")
        child = os.fork()
        if not child:
            status = 1
            try:
                LOGGER.warning("in the child")
                telemetry.shutdown()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert [record.body.string_value for record in of(receiver, "shop.orders")][1:] == ["in the child"]


def test_a_flush_delivers_at_once() -> None:
    # the queue waits for a second
    with Receiver() as receiver, observed(receiver) as (client, telemetry):
        client.get("/items/7")
        assert telemetry.flush(30.0)
        assert len(of(receiver, "shop.orders")) == 1
