"""Labels that the application adds to the durations of requests."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from otel_fastperf import Settings, SetupError, Telemetry, setup_telemetry
from tests.otlp import Receiver


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def order(order_id: int, request: Request) -> int:
        request.state.tenant = request.headers.get("x-tenant")
        return order_id

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError

    return app


def tenant(scope: Any) -> str | None:
    found: str | None = scope["state"].get("tenant")
    return found


@contextmanager
def labelled(settings: Settings | None = None, **labels: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    app = shop()
    with (
        setup_telemetry(app, settings=settings, request_labels=labels) as telemetry,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client, telemetry


def counted(client: TestClient, label: str = "tenant") -> dict[str, float]:
    """Requests by the value of a label, as on the page."""
    page = client.get("/metrics").text
    pattern = rf'^http_server_request_duration_seconds_count\{{.*[{{,]{label}="([^"]*)".*\}} (\S+)$'
    return {value: float(number) for value, number in re.findall(pattern, page, re.MULTILINE)}


def errors(telemetry: Telemetry, part: str) -> float:
    name = "fastperf_telemetry_errors_total"
    return telemetry.metrics.registry.get_sample_value(name, {"part": part}) or 0.0


def test_a_label_has_what_the_function_makes_of_the_scope_when_the_request_has_ended() -> None:
    with labelled(tenant=tenant, path=lambda scope: scope["path"]) as (client, telemetry):
        for name in ("acme", "acme", "zenith"):
            client.get("/orders/7", headers={"x-tenant": name})
        client.get("/orders/8")
        assert counted(client) == {"acme": 2, "zenith": 1, "": 1}
        assert counted(client, "path") == {"/orders/7": 1, "/orders/8": 1}  # by the last tenant
        (route,) = telemetry.diagnose().routes
        assert (route.route, route.requests) == ("/orders/{order_id}", 4)


def test_the_other_metrics_of_requests_have_no_such_label() -> None:
    with labelled(tenant=tenant) as (client, _):
        client.get("/orders/7", headers={"x-tenant": "acme"})
        lines = [line for line in client.get("/metrics").text.splitlines() if "acme" in line]
    assert lines
    assert all(line.startswith("http_server_request_duration_seconds_") for line in lines)


def test_a_function_that_raises_is_counted_and_the_label_is_empty() -> None:
    with labelled(tenant=lambda scope: scope["no such key"]) as (client, telemetry):
        assert client.get("/orders/7").text == "7"
        assert counted(client) == {"": 1}
        assert errors(telemetry, "request_label_tenant") == 1


def test_a_request_that_fails_has_its_label() -> None:
    with labelled(tenant=lambda scope: "of all") as (client, telemetry):
        client.get("/fails")
        client.get("/nowhere")
        families = {family.name: family for family in telemetry.metrics.registry.collect()}
    found = {
        (sample.labels["http_response_status_code"], sample.labels["error_type"], sample.labels["tenant"])
        for sample in families["http_server_request_duration_seconds"].samples
    }
    assert found == {("500", "ValueError", "of all"), ("404", "", "of all")}


def test_values_beyond_a_hundred_share_one_series() -> None:
    with labelled(tenant=tenant) as (client, telemetry):
        for number in range(103):
            client.get("/orders/7", headers={"x-tenant": f"tenant {number}"})
        found = counted(client)
        assert len(found) == 101
        assert found["_OVERFLOW"] == 3
        overflow = telemetry.metrics.registry.get_sample_value(
            "fastperf_metric_overflow_total",
            {"metric": "http_server_request_duration_seconds", "label": "tenant"},
        )
        assert overflow == 3


def test_a_long_value_is_cut_and_another_type_is_text() -> None:
    with labelled(tenant=lambda scope: "x" * 1000, number=lambda scope: 7) as (client, _):
        client.get("/orders/7")
        assert counted(client) == {"x" * 128: 1}
        assert counted(client, "number") == {"7": 1}


def test_the_label_is_pushed_by_otlp_too() -> None:
    with Receiver() as receiver:
        settings = Settings(
            traces={"exporter": "none", "base_endpoint": receiver.endpoint}, metrics={"exporter": "otlp"}
        )
        with labelled(settings, tenant=tenant) as (client, _):
            client.get("/orders/7", headers={"x-tenant": "acme"})
        (push,) = receiver.metrics
    metrics = {metric.name: metric for metric in push.resource_metrics[0].scope_metrics[0].metrics}
    (point,) = metrics["http.server.request.duration"].histogram.data_points
    assert {each.key: each.value.string_value for each in point.attributes}["tenant"] == "acme"


async def awaited(_scope: Any) -> str:
    return ""


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ({"http_route": tenant}, "request_labels['http_route']: must be a name"),
        ({"Tenant": tenant}, "request_labels['Tenant']: must be a name"),
        ({"le": tenant}, "request_labels['le']: must be a name"),
        ({"tenant": "acme"}, "request_labels['tenant'] takes a function, called as function(scope), got 'acme'"),
        ({"tenant": awaited}, "request_labels['tenant'] takes a function, called as function(scope), got an async"),
        (
            {f"l{number}": tenant for number in range(9)},
            "request_labels= takes a dict of at most 8 labels, got 9 labels",
        ),
        ("tenant", "request_labels= takes a dict of at most 8 labels, got 'tenant'"),
    ],
)
def test_wrong_labels_are_refused(labels: Any, rule: str) -> None:
    with pytest.raises(SetupError) as caught:
        setup_telemetry(FastAPI(), request_labels=labels)
    assert str(caught.value).startswith(rule)
    assert "Remedy: " in str(caught.value)
