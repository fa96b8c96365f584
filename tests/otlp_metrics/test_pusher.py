"""Metrics of real requests reach an OTLP receiver: the counters of `/metrics`, under OpenTelemetry's names."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_fastperf import Settings, SetupError, Telemetry, setup_telemetry
from otel_fastperf.metrics import CATALOGUE
from tests.otlp import Receiver, hanging, rejected, unavailable
from tests.serving import free_port, wait_until

DURATION = "http.server.request.duration"
LONG = 3_600_000.0


@contextmanager
def observed(receiver: Receiver, *, interval: float = LONG, **metrics: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    """A service that pushes its metrics."""
    app = FastAPI()
    app.get("/items/{item}")(lambda item: item)
    settings = Settings(
        service_name="shop",
        resource_attributes={"deployment.environment.name": "test"},
        traces={"exporter": "none", "base_endpoint": receiver.endpoint},
        metrics={"exporter": "prometheus,otlp", "export_interval_ms": interval, "protocol": receiver.protocol}
        | metrics,
    )
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app) as client:
        yield client, telemetry


def by_name(push: ExportMetricsServiceRequest) -> dict[str, Metric]:
    """The metrics of a push."""
    (resource,) = push.resource_metrics
    (scope,) = resource.scope_metrics
    names = [metric.name for metric in scope.metrics]
    assert len(names) == len(set(names))
    return {metric.name: metric for metric in scope.metrics}


def attributes(values: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in values}


def requests_in(push: ExportMetricsServiceRequest) -> int:
    metric = by_name(push).get(DURATION)
    return 0 if metric is None else sum(point.count for point in metric.histogram.data_points)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_last_push_has_what_the_page_shows(protocol: Any) -> None:
    with Receiver(protocol) as receiver:
        with observed(receiver) as (client, telemetry):
            for item in range(5):
                client.get(f"/items/{item}")
            client.get("/nowhere")
            page = client.get("/metrics").text
            assert "metrics export: on, OTLP " in telemetry.describe()
        (push,) = receiver.metrics
    counted = {
        (labels["http_route"], labels["http_response_status_code"]): float(value)
        for line, value in re.findall(r"^http_server_request_duration_seconds_count\{(.*)\} (\S+)$", page, re.MULTILINE)
        for labels in [dict(re.findall(r'(\w+)="([^"]*)"', line))]
    }
    metric = by_name(push)[DURATION]
    pushed = {
        (found["http.route"], str(found["http.response.status_code"])): float(point.count)
        for point in metric.histogram.data_points
        for found in [attributes(point.attributes)]
    }
    assert pushed == counted == {("/items/{item}", "200"): 5.0, ("unmatched", "404"): 1.0}
    assert metric.unit == "s"
    for point in metric.histogram.data_points:
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        assert sum(point.bucket_counts) == point.count
        assert not point.HasField("min")
        assert set(attributes(point.attributes)) == {
            *("http.request.method", "http.route", "http.response.status_code", "url.scheme")
        }


def test_every_metric_has_its_kind_its_unit_and_a_name_from_which_prometheus_makes_that_of_the_page() -> None:
    with Receiver() as receiver:
        with observed(receiver) as (client, _):
            client.get("/items/1")
        metrics = by_name(receiver.metrics[0])
    kinds = {metric.name: metric.kind for metric in CATALOGUE}
    for metric in metrics.values():
        kind = metric.WhichOneof("data")
        # https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#otlp-metric-points-to-prometheus
        name = re.sub(r"\W", "_", metric.name)
        unit = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "": ""}[metric.unit]
        name = name + unit + ("_total" if kind == "sum" else "")
        assert kinds[name] == {"sum": "counter"}.get(str(kind), kind), metric.name
        assert metric.description
    names = set(metrics)
    assert names >= {"fastperf.request_time", "http.server.active_requests", "process.resident_memory", DURATION}


def test_resource_and_scope_are_those_of_the_spans() -> None:
    with Receiver() as receiver:
        with observed(receiver) as (client, telemetry):
            client.get("/items/1")
            (span,) = telemetry.spans()
        (resource,) = receiver.metrics[0].resource_metrics
    scope = span.instrumentation_scope
    assert scope is not None
    assert attributes(resource.resource.attributes) == dict(span.resource.attributes)
    assert attributes(resource.resource.attributes)["service.instance.id"]
    assert (resource.scope_metrics[0].scope.name, resource.scope_metrics[0].schema_url) == (
        scope.name,
        scope.schema_url,
    )


def test_a_duration_refers_to_its_span() -> None:
    with Receiver() as receiver:
        with observed(receiver) as (client, telemetry):
            client.get("/items/1")
            (span,) = telemetry.spans()
        (point,) = by_name(receiver.metrics[0])[DURATION].histogram.data_points
    (exemplar,) = point.exemplars
    context = span.get_span_context()
    assert context is not None
    assert (exemplar.trace_id, exemplar.span_id) == (context.trace_id.to_bytes(16), context.span_id.to_bytes(8))
    assert exemplar.as_double == pytest.approx(point.sum)


def test_cumulative_points_count_from_the_start_delta_points_from_the_last_push() -> None:
    found: dict[str, list[ExportMetricsServiceRequest]] = {}
    for temporality in ("cumulative", "delta"):
        with Receiver() as receiver, observed(receiver, interval=50.0, temporality=temporality) as (client, _):
            for number in (1, 2):
                client.get(f"/items/{number}")
                wait_until(
                    lambda number=number, receiver=receiver: requests_so_far(receiver, temporality) == number,  # noqa: B023
                    what=f"{number} requests are pushed",
                )
                pushed = len(receiver.metrics)
                wait_until(lambda pushed=pushed, receiver=receiver: len(receiver.metrics) > pushed, what="another push")
            found[temporality] = receiver.metrics
    cumulative = [requests_in(push) for push in found["cumulative"]]
    assert cumulative == sorted(cumulative)
    assert sum(requests_in(push) for push in found["delta"]) == 2
    starts = {
        temporality: [
            point.start_time_unix_nano
            for push in pushes
            if DURATION in by_name(push)
            for point in by_name(push)[DURATION].histogram.data_points
        ]
        for temporality, pushes in found.items()
    }
    assert len(set(starts["cumulative"])) == 1
    assert len(set(starts["delta"])) == len(starts["delta"])


def requests_so_far(receiver: Receiver, temporality: str) -> int:
    counts = [requests_in(push) for push in receiver.metrics]
    return sum(counts) if temporality == "delta" else max(counts, default=0)


@pytest.mark.parametrize("answer", [unavailable(), rejected(400), None], ids=["unavailable", "rejected", "dead"])
def test_a_collector_in_trouble_is_counted_and_told_once(
    answer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    # seconds in which the SDK's exporter tries again
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1")
    with Receiver() as receiver:
        if answer is None:
            receiver.port = free_port()
            receiver.endpoint = f"http://127.0.0.1:{receiver.port}"
        else:
            receiver.answer = answer
        with observed(receiver, interval=20.0) as (client, telemetry):
            errors = telemetry.metrics.telemetry_errors.child("metrics_export")
            wait_until(lambda: errors._value.get() >= 2, what="two failed pushes")
            assert client.get("/items/1").status_code == 200
        told = [each for each in caplog.records if "metrics do not reach" in each.getMessage()]
        assert len(told) == 1
        assert not [each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]


def test_a_receiver_that_takes_no_metrics_is_told_of_with_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if "metrics do not reach" in each.getMessage()]

    with Receiver() as receiver:
        receiver.answer = rejected(404)
        with observed(receiver, interval=20.0):
            wait_until(said, what="a warning")
    [told] = said()
    assert "which takes no metrics; requests are not affected" in told
    assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in told


def test_it_is_off_unless_asked_for() -> None:
    with Receiver() as receiver:
        with observed(receiver, exporter="prometheus,console") as (client, telemetry):
            client.get("/items/1")
            assert "metrics export: off, OTEL_METRICS_EXPORTER does not contain otlp" in telemetry.describe()
        assert receiver.metrics == []


def test_a_missing_exporter_is_said_at_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.metric_exporter", None)
    monkeypatch.delattr("opentelemetry.exporter.otlp.proto.http.metric_exporter", raising=False)
    settings = Settings(metrics={"exporter": "otlp"})
    with pytest.raises(SetupError, match="pip install opentelemetry-exporter-otlp-proto-http"):
        setup_telemetry(FastAPI(), settings=settings)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_pushes_what_it_counts_itself() -> None:
    with Receiver() as receiver, observed(receiver) as (client, telemetry):
        client.get("/items/1")
        child = os.fork()
        if not child:
            status = 1
            try:
                telemetry.metrics.request_duration.child("GET", "/child", "200", "", "http").observe(0.1)
                telemetry.shutdown()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        (push,) = receiver.metrics
        (point,) = by_name(push)[DURATION].histogram.data_points
        assert attributes(point.attributes)["http.route"] == "/child"


def test_buckets_of_a_setting_are_on_the_page_in_the_push_and_in_the_report() -> None:
    buckets = {"http_server_request_duration_seconds": (0.25, 60.0), "fastperf_request_db_statements": (0.0, 7.0)}
    with Receiver() as receiver:
        with observed(receiver, buckets=buckets) as (client, telemetry):
            client.get("/items/1")
            page = client.get("/metrics").text
            (route,) = telemetry.diagnose().routes
        (push,) = receiver.metrics
    bounds = set(re.findall(r'^http_server_request_duration_seconds_bucket.*le="([^"]+)"', page, re.MULTILINE))
    assert bounds == {"0.25", "60.0", "+Inf"}
    metrics = by_name(push)
    assert list(metrics[DURATION].histogram.data_points[0].explicit_bounds) == [0.25, 60.0]
    assert list(metrics["fastperf.request_db_statements"].histogram.data_points[0].explicit_bounds) == [0.0, 7.0]
    assert len(metrics["http.server.request.body.size"].histogram.data_points[0].explicit_bounds) == 7
    assert route.latency_bounds == (0.25, 60.0)


def test_a_flush_pushes_at_once_and_the_schedule_goes_on() -> None:
    with Receiver() as receiver, observed(receiver, interval=300.0) as (client, telemetry):
        client.get("/items/1")
        assert telemetry.flush(30.0)
        assert requests_in(receiver.metrics[-1]) == 1
        flushed = len(receiver.metrics)
        wait_until(lambda: len(receiver.metrics) > flushed, what="another push")


def test_a_flush_waits_no_longer_than_it_may() -> None:
    with Receiver(answer=hanging()) as receiver, observed(receiver) as (client, telemetry):
        client.get("/items/1")
        assert not telemetry.flush(0.1)
