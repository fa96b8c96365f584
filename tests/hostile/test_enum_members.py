"""Attribute values are plain: OpenTelemetry 1.38 to 1.44 drops attributes with members of enumerations."""

import time
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once
from sqlalchemy import create_engine, text

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.findings import Finding, Kind, Severity
from tests.serving import serve, wait_until


def shop() -> FastAPI:
    app = FastAPI()
    engine = create_engine("sqlite://")

    @app.get("/slow")
    async def slow() -> str:
        for _ in range(20):
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        time.sleep(0.15)
        return "ok"

    return app


@pytest.fixture
def sdk_provider() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """The SDK's provider as the global one, which telemetry joins: its spans check their values themselves."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    trace.set_tracer_provider(provider)
    yield provider, exporter
    provider.shutdown()
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = before


def values(spans: Sequence[ReadableSpan]) -> Iterator[Any]:
    """All attribute values of spans, events and links; members of tuples one by one."""
    for span in spans:
        holders: tuple[Any, ...] = (span, *span.events, *span.links)
        for holder in holders:
            for value in (holder.attributes or {}).values():
                yield from value if isinstance(value, tuple) else (value,)


class Custom(str, Enum):  # noqa: UP042 - an older spelling of StrEnum
    """A kind of the application's own."""

    SLOW = "custom_slow"


def detect(_request: object) -> Iterable[Finding]:
    evidence: dict[str, Any] = {"kind": Custom.SLOW, "kinds": (Kind.GC_PAUSE, Custom.SLOW)}
    yield Finding(
        kind=Custom.SLOW,
        severity=Severity.INFO,
        subject="subject",
        message="message",
        remedy="remedy",
        evidence=evidence,
    )


def check(spans: Sequence[ReadableSpan]) -> None:
    (server,) = [span for span in spans if span.name == "GET /slow"]
    attributes: dict[str, Any] = dict(server.attributes or {})
    # a busy machine may see others too
    assert "custom_slow" in attributes["fastperf.findings"]
    assert not [value for value in values(spans) if isinstance(value, Enum)]
    (own,) = [dict(event.attributes or {}) for event in server.events if event.name == "fastperf.custom_slow"]
    assert own["fastperf.finding.kind"] == own["fastperf.evidence.kind"] == "custom_slow"
    assert own["fastperf.finding.severity"] == "info"
    assert own["fastperf.evidence.kinds"] == ("gc_pause", "custom_slow")


def test_spans_of_the_own_provider() -> None:
    app = shop()
    settings = Settings(loop={"start_after": 0, "blocked": 0.05})
    with setup_telemetry(app, settings=settings) as telemetry, serve(app) as server:
        telemetry.add_detector(detect)
        server.get("/slow")
        wait_until(lambda: [span for span in telemetry.spans() if span.name == "GET /slow"], what="the span has ended")
        check(telemetry.spans())


def test_spans_of_the_sdk_s_provider(sdk_provider: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    _, exporter = sdk_provider
    app = shop()
    settings = Settings(loop={"start_after": 0, "blocked": 0.05})
    with setup_telemetry(app, settings=settings) as telemetry, serve(app) as server:
        telemetry.add_detector(detect)
        server.get("/slow")
        spans = wait_until(
            lambda: [span for span in exporter.get_finished_spans() if span.name == "GET /slow"], what="the span"
        )
        check(spans)
