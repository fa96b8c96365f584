"""Values that clients, handlers or called servers choose neither fill the metrics nor carry secrets to a span."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import pytest
from fastapi import FastAPI, Response
from httpx import ASGITransport
from opentelemetry.trace import SpanKind

from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.internals.open_labels import OVERFLOW
from otel_fastperf.metrics import Metrics
from tests.serving import Served, serve, wait_until

#: must not appear in any attribute
CANARY: Final = "hunter2canary"


@contextmanager
def served(app: FastAPI, **options: Any) -> Iterator[tuple[Telemetry, Served]]:
    with setup_telemetry(app, settings=Settings()) as telemetry, serve(app, log_level="critical", **options) as server:
        yield telemetry, server


def label_values(metrics: Metrics, name: str, label: str) -> set[str]:
    return {labels[label] for sample, labels, _ in metrics.samples(_raise) if sample == name and label in labels}


def _raise(error: Exception) -> None:
    raise error


def overflow(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Observations that lost a label value, by metric and label."""
    return {
        (labels["metric"], labels["label"]): value
        for sample, labels, value in metrics.samples(_raise)
        if sample == "fastperf_metric_overflow_total"
    }


def chooser() -> FastAPI:
    app = FastAPI()

    @app.get("/status/{number}")
    async def status(number: int) -> Response:
        return Response(status_code=number)

    @app.get("/error/{number}")
    async def error(number: int) -> None:
        raise type(f"Error{number}", (Exception,), {})

    @app.get("/")
    async def root() -> str:
        return "ok"

    return app


async def ask(app: FastAPI, paths: list[str], **headers: str) -> None:
    """Send requests without a server, which is faster and lets any status pass."""
    transport = ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for path in paths:
            await client.get(path, headers=headers)


@pytest.mark.anyio
async def test_all_that_is_no_http_status_is_one_value() -> None:
    app = chooser()
    with setup_telemetry(app, settings=Settings()) as telemetry:
        await ask(app, [f"/status/{number}" for number in (*range(200, 1000, 7), 204, 404, 599, 600, 999)])
        statuses = label_values(
            telemetry.metrics, "http_server_request_duration_seconds_count", "http_response_status_code"
        )
        errors = label_values(telemetry.metrics, "http_server_request_duration_seconds_count", "error_type")
    assert {"204", "404", "599", "_OTHER"} <= statuses
    assert {value for value in statuses - {"_OTHER"} if not 100 <= int(value) <= 599} == set()
    assert {value for value in errors - {"", "_OTHER"} if not 500 <= int(value) <= 599} == set()


@pytest.mark.anyio
async def test_a_handler_that_invents_exceptions_fills_one_label_only_and_is_told() -> None:
    app = chooser()
    with setup_telemetry(app, settings=Settings()) as telemetry:
        await ask(app, [f"/error/{number}" for number in range(150)])
        await ask(app, ["/"])
        name = "http_server_request_duration_seconds_count"
        errors = label_values(telemetry.metrics, name, "error_type")
        routes = label_values(telemetry.metrics, name, "http_route")
        told = overflow(telemetry.metrics)
        counted = sum(value for sample, _, value in telemetry.metrics.samples(_raise) if sample == name)
    assert len(errors) <= 102
    assert OVERFLOW in errors
    assert routes == {"/error/{number}", "/"}
    assert told == {("http_server_request_duration_seconds", "error_type"): pytest.approx(50, abs=2)}
    assert counted == 151


def test_the_product_of_two_open_labels_is_bounded_and_leaves_closed_labels_alone() -> None:
    metrics = Metrics()
    family = metrics.request_duration
    for status in range(400, 600):
        for error in range(40):
            family.child("GET", "/evil", str(status), f"Error{error}", "http").observe(0.01)
    family.child("GET", "/good", "200", "", "http").observe(0.01)
    name = "http_server_request_duration_seconds_count"
    series = [labels for sample, labels, _ in metrics.samples(_raise) if sample == name]
    assert len(series) < 1000
    assert {"/evil", "/good"} == {labels["http_route"] for labels in series}
    assert set(overflow(metrics)) == {
        ("http_server_request_duration_seconds", label) for label in ("http_response_status_code", "error_type")
    }


def test_a_metric_with_too_many_series_names_the_label_with_most_values() -> None:
    metrics = Metrics(max_series=20)
    for number in range(30):
        metrics.request_body_size.child("GET" if number % 2 else "POST", f"/{number}").observe(1)
    assert overflow(metrics) == {("http_server_request_body_size_bytes", "http_route"): 10}


def span_attributes(telemetry: Telemetry) -> dict[str, Any]:
    """Those of the SERVER span; a busy machine makes spans of blocks too."""
    (span,) = wait_until(
        lambda: [span for span in telemetry.spans() if span.kind is SpanKind.SERVER], what="the span has ended"
    )
    return dict(span.attributes or {})


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    "head",
    [
        f"GET / HTTP/1.1\r\nHost: user:{CANARY}@shop:8000",
        f"GET / HTTP/1.1\r\nHost: {CANARY}@shop",
        f"GET http://user:{CANARY}@shop/ HTTP/1.1\r\nHost: shop",
        f"GET http://{CANARY}@shop/a/b?c=d HTTP/1.1\r\nHost: shop",
        f"GET /?{CANARY} HTTP/1.1\r\nHost: shop",
        f"GET /?a&{CANARY}&b=1 HTTP/1.1\r\nHost: shop",
        f"GET /?{CANARY}= HTTP/1.1\r\nHost: shop",
        f"GET /?{CANARY}== HTTP/1.1\r\nHost: shop",
        f"GET /?token={CANARY} HTTP/1.1\r\nHost: shop",
    ],
)
def test_user_password_and_query_values_are_not_on_the_span(head: str, http: str) -> None:
    with served(chooser(), http=http) as (telemetry, server):
        server.raw(f"{head}\r\nConnection: close\r\n\r\n".encode())
        attributes = span_attributes(telemetry)
    assert CANARY not in str(attributes)
    assert attributes["server.address"] == "shop"


def test_a_query_keeps_the_names_of_its_parameters() -> None:
    with served(chooser()) as (telemetry, server):
        server.get("/?page=2&flag&q=")
        assert span_attributes(telemetry)["url.query"] == "page=REDACTED&REDACTED&REDACTED"


def test_the_values_of_a_query_stay_if_settings_say_so() -> None:
    app = chooser()
    settings = Settings(requests={"capture_query_values": True})
    with setup_telemetry(app, settings=settings) as telemetry, serve(app) as server:
        server.get("/?page=2&flag&sig=secret")
        assert span_attributes(telemetry)["url.query"] == "page=2&flag&sig=REDACTED"
