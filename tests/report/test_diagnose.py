"""The diagnosis turns metrics and findings into a verdict for the worker and for each route."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from otel_fastperf import Report, Settings, setup_telemetry
from otel_fastperf.findings import Finding
from otel_fastperf.report.diagnose import diagnose
from otel_fastperf.report.histograms import Sample
from otel_fastperf.report.model import RouteVerdict
from tests.reports import GROWTH, N_PLUS_ONE

REQUESTS = "http_server_request_duration_seconds"


def histogram(name: str, buckets: dict[str, float], total: float, **labels: str) -> Iterator[Sample]:
    """Samples of one histogram: cumulative counts by `le`."""
    for bound, count in buckets.items():
        yield f"{name}_bucket", {**labels, "le": bound}, count
    yield f"{name}_count", labels, buckets["+Inf"]
    yield f"{name}_sum", labels, total


def requests(route: str, count: float, seconds: float, *, method: str = "GET", error: str = "") -> Iterator[Sample]:
    """`count` requests, half of them up to 0.1 s, the other half up to 1 s."""
    labels = {
        "http_request_method": method,
        "http_route": route,
        "http_response_status_code": "200",
        "error_type": error,
        "url_scheme": "http",
    }
    yield from histogram(REQUESTS, {"0.1": count / 2, "1.0": count, "+Inf": count}, seconds, **labels)


def spent(route: str, method: str = "GET", /, **segments: float) -> Iterator[Sample]:
    for segment, seconds in segments.items():
        labels = {"http_request_method": method, "http_route": route, "segment": segment}
        yield "fastperf_request_time_seconds_total", labels, seconds


def report_of(*groups: Iterable[Sample], findings: tuple[Finding, ...] = ()) -> Report:
    samples = [sample for group in groups for sample in group]
    return diagnose(samples, findings, service="shop", versions={}, now=1100.0, pid=7, started=1000.0)


def route_of(*groups: Iterable[Sample], findings: tuple[Finding, ...] = ()) -> RouteVerdict:
    (route,) = report_of(*groups, findings=findings).routes
    return route


def worker_sentence(*groups: Iterable[Sample], findings: tuple[Finding, ...] = ()) -> str:
    return report_of(*groups, findings=findings).worker.sentence


def test_a_process_without_measurements_has_an_empty_report() -> None:
    report = report_of()
    assert (report.routes, report.findings, report.troubles) == ((), (), {})
    assert (report.service, report.made_at, report.worker.pid, report.worker.uptime_seconds) == ("shop", 1100.0, 7, 100)
    assert report.worker.loop_utilization is None
    assert report.worker.threads_limit is None
    assert report.worker.sentence == "Nothing stands out"


def test_a_route_has_its_figures() -> None:
    statements = histogram(
        "fastperf_request_db_statements", {"10": 12, "+Inf": 12}, 36.0, http_request_method="GET", http_route="/orders"
    )
    route = route_of(requests("/orders", 10, 4.0), requests("/orders", 2, 1.0, error="500"), statements)
    assert (route.method, route.route, route.requests, route.errors, route.seconds) == ("GET", "/orders", 12, 2, 5.0)
    assert [route.p50, route.p95, route.p99] == pytest.approx([0.1, 0.91, 0.982])
    assert route.statements == 3.0


def test_routes_are_ordered_by_the_time_they_took() -> None:
    report = report_of(requests("/a", 9, 1.0), requests("/b", 1, 3.0), requests("/a", 1, 2.0, method="POST"))
    assert [(route.method, route.route) for route in report.routes] == [("GET", "/b"), ("POST", "/a"), ("GET", "/a")]


def test_segments_are_named_in_plain_words_until_most_of_the_time_is_explained() -> None:
    segments = spent("/orders", handler=0.8, db=6.2, pool_wait=1.8, gc=0.7, send=0.5)
    route = route_of(requests("/orders", 10, 10.0), segments)
    assert list(route.segments) == ["db", "pool_wait", "handler", "gc", "send"]
    assert route.sentence.endswith(": 62% database, 18% waiting for a connection")


def test_negligible_segments_are_not_named() -> None:
    segments = spent("/", handler=0.7, **{f"segment_{number}": 0.003 for number in range(100)})
    assert route_of(requests("/", 1, 1.0), segments).sentence == "70% the endpoint itself"


def test_the_worst_finding_of_a_route_is_named_with_its_line() -> None:
    mild = replace(N_PLUS_ONE, kind="slow_query", call_site=None)
    elsewhere = replace(N_PLUS_ONE, route="/users")
    groups = requests("/orders", 10, 1.0), spent("/orders", db=1.0)
    both = route_of(*map(list, groups), findings=(elsewhere, N_PLUS_ONE, mild))
    assert both.sentence == "100% database; n_plus_one at shop/orders.py:41"
    assert route_of(requests("/orders", 1, 1.0), findings=(mild,)).sentence == "slow_query"


def test_the_methods_of_a_path_have_their_own_figures_and_findings() -> None:
    statements = [
        histogram("fastperf_request_db_statements", {"+Inf": 10}, total, http_request_method=method, http_route="/r")
        for method, total in (("GET", 30.0), ("POST", 280.0))
    ]
    report = report_of(
        requests("/r", 10, 1.0),
        requests("/r", 10, 2.0, method="POST"),
        spent("/r", db=1.0),
        spent("/r", "POST", handler=2.0),
        *statements,
        findings=(replace(N_PLUS_ONE, route="/r", method="POST"),),
    )
    post, get = report.routes
    assert (get.statements, get.segments, get.sentence) == (
        3.0,
        {"db": 1.0},
        "slow, and none of the known reasons: 100% database",
    )
    assert (post.statements, post.segments) == (28.0, {"handler": 2.0})
    assert post.sentence == "100% the endpoint itself; n_plus_one at shop/orders.py:41"


def gauges(**values: float) -> list[Sample]:
    return [(name, {}, value) for name, value in values.items()]


WELL = gauges(
    fastperf_event_loop_utilization_ratio=0.12,
    fastperf_threadpool_limit=40,
    fastperf_threadpool_borrowed=3,
    fastperf_threadpool_waiting=0,
    process_resident_memory_bytes=143 * 1024**2,
)


def test_resident_and_unshared_memory_are_of_one_reading() -> None:
    """The process's own memory would else be more than all of it, if some was freed between two readings."""
    known = gauges(
        process_resident_memory_bytes=117 * 1024**2,
        fastperf_memory_resident_bytes=270 * 1024**2,
        fastperf_memory_unique_bytes=254 * 1024**2,
    )
    worker = report_of(known).worker
    assert (worker.resident_bytes, worker.unique_bytes) == (270 * 1024**2, 254 * 1024**2)


def test_a_healthy_worker_is_reported_as_healthy() -> None:
    known = "the event loop is 12% busy, 3 of 40 threads in use, 143 MiB resident"
    assert worker_sentence(WELL) == f"Nothing stands out; {known}"


LATE = {"0.001": 90.0, "0.1": 90.0, "0.25": 100.0, "+Inf": 100.0}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (gauges(fastperf_event_loop_utilization_ratio=0.97), "the event loop is 97% busy"),
        (histogram("fastperf_event_loop_lag_seconds", LATE, 1), "1 timer in 100 is at least 235 ms late"),
        (
            histogram("fastperf_event_loop_blocked_seconds", {"+Inf": 3}, 3.2, cause="sync_io", http_route="/"),
            "the event loop was blocked for 3.20 s (sync_io 3.20 s)",
        ),
        (gauges(fastperf_threadpool_waiting=12), "12 requests wait for a thread"),
        (histogram("fastperf_threadpool_wait_seconds", LATE, 1), "1 wait in 100 for a thread takes at least 235 ms"),
        (gauges(db_client_connection_pending_requests=1), "1 request waits for a connection"),
        (
            histogram("db_client_connection_wait_time_seconds", LATE, 1, db_client_connection_pool_name="a"),
            "1 wait in 100 for a connection takes at least 235 ms",
        ),
        (
            gauges(db_client_connection_timeouts_total=5),
            "5 waits for a connection timed out",
        ),
        (
            gauges(fastperf_memory_limit_bytes=512 * 1024**2, fastperf_memory_headroom_bytes=20 * 1024**2),
            "20 MiB of 512 MiB memory left",
        ),
        (
            histogram("fastperf_gc_pause_seconds", {"+Inf": 9}, 4.0, generation="2"),
            "the garbage collector stops the process for 4.0% of the time",
        ),
    ],
)
def test_problems_of_a_worker_come_first(wrong: Iterable[Sample], words: str) -> None:
    sentence = worker_sentence(wrong, gauges(process_resident_memory_bytes=143 * 1024**2))
    assert sentence.startswith(words[:1].upper() + words[1:])
    assert sentence.endswith("143 MiB resident")


def test_a_finding_outside_of_requests_belongs_to_the_worker() -> None:
    assert worker_sentence(findings=(N_PLUS_ONE, GROWTH)) == "Found outside of routes: memory_growth"


def test_a_worker_has_its_figures() -> None:
    worker = report_of(
        WELL,
        requests("/", 50, 1.0),
        histogram("db_client_operation_duration_seconds", {"+Inf": 200}, 1.0, db_system_name="sqlite"),
        histogram("fastperf_event_loop_blocked_seconds", {"+Inf": 1}, 0.2, cause="cpu", http_route="/a"),
        histogram("fastperf_event_loop_blocked_seconds", {"+Inf": 1}, 0.5, cause="sync_io", http_route="/a"),
        histogram("fastperf_event_loop_blocked_seconds", {"+Inf": 1}, 0.1, cause="cpu", http_route="/b"),
        histogram("fastperf_gc_pause_seconds", {"+Inf": 9}, 0.5, generation="0"),
        histogram("fastperf_gc_pause_seconds", {"+Inf": 9}, 0.5, generation="2"),
    ).worker
    assert (worker.requests_per_second, worker.statements_per_second) == (0.5, 2.0)
    assert list(worker.blocked_seconds.items()) == [("sync_io", 0.5), ("cpu", pytest.approx(0.3))]
    assert worker.gc_share == pytest.approx(0.01)
    assert (worker.threads_limit, worker.threads_borrowed, worker.resident_bytes) == (40, 3, 143 * 1024**2)


def test_an_unlimited_number_of_threads_is_left_out() -> None:
    assert report_of(gauges(fastperf_threadpool_limit=float("inf"))).worker.threads_limit is None


def test_a_report_at_the_moment_of_start_has_no_rates() -> None:
    samples = list(requests("/", 50, 1.0))
    report = diagnose(samples, (), service="", versions={}, now=5.0, pid=1, started=6.0)
    assert (report.worker.uptime_seconds, report.worker.requests_per_second) == (0.0, 0.0)


def test_losses_and_failures_of_telemetry_are_in_the_report() -> None:
    spans = [("fastperf_spans_total", {"outcome": name}, 3.0) for name in ("exported", "dropped_queue_full")]
    failures = [
        ("fastperf_telemetry_errors_total", {"part": name}, count) for name, count in (("loop", 2.0), ("a", 0.0))
    ]
    overflow = [("fastperf_metric_overflow_total", {"metric": REQUESTS}, 9.0)]
    assert report_of(spans, failures, overflow).troubles == {"dropped_queue_full": 3.0, "loop": 2.0, REQUESTS: 9.0}


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "done"

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("broken")

    return app


def test_telemetry_diagnoses_the_app_it_observes(app: FastAPI) -> None:
    settings = Settings(service_name="shop")
    with setup_telemetry(app, settings=settings) as telemetry, TestClient(app, raise_server_exceptions=False) as client:
        for _ in range(5):
            client.get("/slow")
        client.get("/broken")
        client.get("/nowhere")
        report = telemetry.diagnose()
    assert report.service == "shop"
    assert set(report.versions) == {"python", "otel-fastperf", "fastapi", "sqlalchemy", "opentelemetry-sdk"}
    slow = report.routes[0]
    assert (slow.method, slow.route, slow.requests, slow.errors) == ("GET", "/slow", 5, 0)
    assert next(iter(slow.segments)) == "handler_await"
    assert sum(slow.segments.values()) == pytest.approx(slow.seconds, rel=0.01)
    assert "awaiting in the endpoint" in slow.sentence
    assert {(route.route, route.errors) for route in report.routes} == {("/slow", 0), ("/broken", 1), ("unmatched", 0)}
    assert report.worker.resident_bytes
    assert abs(report.made_at - time.time()) < 60
    assert Report.from_json(report.to_json()) == report


def test_findings_are_in_the_report_worst_first(app: FastAPI) -> None:
    with setup_telemetry(app) as telemetry, TestClient(app) as client:
        telemetry.add_detector(lambda record: iter([replace(GROWTH, route="/slow"), N_PLUS_ONE]))
        client.get("/slow")
        report = telemetry.diagnose()
    assert [finding.kind for finding in report.findings] == ["n_plus_one", "memory_growth"]
    assert report.routes[0].sentence.endswith("; memory_growth")
    assert report.service == ""


def test_diagnose_works_before_start_up_after_shutdown_and_with_everything_off(app: FastAPI) -> None:
    telemetry = setup_telemetry(app)
    assert telemetry.diagnose().routes == ()
    telemetry.shutdown()
    assert telemetry.diagnose().routes == ()
    with setup_telemetry(FastAPI(), settings=Settings(sdk_disabled=True, service_name="off")) as off:
        assert (off.diagnose().service, off.diagnose().routes) == ("off", ())
