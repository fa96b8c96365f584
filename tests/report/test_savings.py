"""The first sentence of a report: the remedy that saves most over all requests, with what it would give back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pytest

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.report.advice import advice
from otel_fastperf.report.diagnose import KnownOfRoutes, diagnose
from otel_fastperf.report.histograms import Sample, Samples
from otel_fastperf.report.model import Report
from otel_fastperf.report.savings import Saving, savings
from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Segment
from tests.report.test_diagnose import requests, spent
from tests.reports import GROWTH, N_PLUS_ONE

BLOCK = Finding(
    kind=Kind.BLOCKING_CALL,
    severity=Severity.WARNING,
    subject="rate",
    message="Code blocked the event loop.",
    remedy="await it",
    call_site=CallSite("/srv/shop/rates.py", 34, "rate"),
    seconds=6.5,
    count=13,
    method="GET",
    route="/rate",
)
WAIT = Finding(
    kind=Kind.POOL_WAIT,
    severity=Severity.CRITICAL,
    subject="shop",
    message="A request waited.",
    remedy="raise it",
    seconds=1.0,
    method="GET",
    route="/orders",
)

TIMES: Mapping[tuple[str, ...], Mapping[str, float]] = {
    ("GET", "/rate"): {"handler": 6.5, "loop_wait": 1.0},
    ("GET", "/products"): {"loop_wait": 9.0, "db": 3.0},
    ("GET", "/orders"): {"db": 4.0, "pool_wait": 2.0},
}


def blocked(seconds: float, cause: str = "sync_io") -> Iterator[Sample]:
    yield "fastperf_event_loop_blocked_seconds_sum", {"cause": cause}, seconds


def saved(*findings: Finding, samples: Iterable[Sample] = ()) -> list[Saving]:
    return savings(Samples(samples), findings, TIMES)


def test_a_blocked_loop_is_ranked_by_the_time_of_those_that_wait_for_it() -> None:
    first, second = saved(replace(WAIT, seconds=50.0), BLOCK)
    assert (first.finding, second.finding.kind) == (BLOCK, Kind.POOL_WAIT)
    # the call takes as long where it is awaited
    assert first.by_route == {("GET", "/rate"): 1.0, ("GET", "/products"): 9.0}
    assert second.by_route == {("GET", "/orders"): 2.0}


def test_blocks_share_the_wait_for_the_loop_by_their_time() -> None:
    other = replace(BLOCK, subject="other", seconds=2.5)
    assert [saving.seconds for saving in saved(other, BLOCK)] == pytest.approx([10 * 6.5 / 9, 10 * 2.5 / 9])
    (alone,) = saved(BLOCK, samples=blocked(13.0))
    assert alone.seconds == pytest.approx(5.0)
    (alone,) = saved(BLOCK, samples=blocked(13.0, "gc"))
    assert alone.seconds == pytest.approx(10.0)


def test_whoever_waits_for_a_pool_the_remedy_helps_all() -> None:
    both = saved(replace(WAIT, seconds=3.0), replace(WAIT, route="/products"))
    assert [saving.seconds for saving in both] == [2.0, 2.0]


def test_repeated_statements_leave_one() -> None:
    (saving,) = saved(replace(N_PLUS_ONE, seconds=4.0, evidence={**N_PLUS_ONE.evidence, "repeats": 4}))
    assert saving.by_route == {("GET", "/orders"): pytest.approx(3.0)}


def test_findings_that_save_nothing_keep_their_order() -> None:
    assert [saving.finding for saving in saved(WAIT, GROWTH)] == [WAIT, GROWTH]
    assert [saving.seconds for saving in saved(GROWTH)] == [0]


def test_the_first_sentence_says_what_it_gives_back() -> None:
    recent = {Route("GET", "/products"): [{Segment.LOOP_WAIT: 0.23, Segment.DB: 0.08}] * 10}
    assert advice(saved(WAIT, BLOCK), recent, total=25.5, uptime=19.0) == (
        "Fix shop/rates.py:34 (blocking_call) first: it blocks the event loop for 6.50 s of 19 s, and costs requests"
        " 10 s, 39% of the time of all, in 2 routes; p95 of GET /products would fall from 310 ms to about 80 ms"
    )
    assert advice(saved(replace(BLOCK, count=1)), recent, total=25.5, uptime=19.0) == ""
    assert advice(saved(GROWTH), recent, total=25.5, uptime=19.0) == ""
    assert advice([], recent, total=0.0, uptime=19.0) == ""


def report_of(*samples: Iterator[Sample], findings: tuple[Finding, ...] = ()) -> Report:
    flat = [sample for group in samples for sample in group]
    return diagnose(flat, findings, KnownOfRoutes(slow=0.5), service="shop", versions={}, now=20, pid=1, started=1)


def test_a_victim_names_its_culprit() -> None:
    report = report_of(
        requests("/rate", 10, 7.5),
        spent("/rate", handler=6.5, loop_wait=1.0),
        requests("/products", 10, 12.0),
        spent("/products", loop_wait=9.0, db=3.0),
        findings=(BLOCK,),
    )
    victim = next(route for route in report.routes if route.route == "/products")
    assert victim.sentence.endswith("because of shop/rates.py:34 (blocking_call)")
    assert not victim.unexplained
    assert report.savings == {BLOCK.fingerprint: pytest.approx(10.0)}
    assert Report.from_json(report.to_json()) == report


def test_a_route_that_is_slow_by_a_busy_machine_says_so() -> None:
    slow = tuple(map(list, (requests("/prices", 10, 8.0), spent("/prices", handler_await=7.0, handler=1.0))))
    (route,) = report_of(*map(iter, slow), blocked(5.0, "descheduled")).routes
    assert (route.slow, route.unexplained) == (True, False)
    assert route.sentence == "88% awaiting in the endpoint; slow because the process got no processor for 5.00 s"
    (route,) = report_of(*map(iter, slow), blocked(1.0, "descheduled")).routes
    assert route.unexplained


def test_a_slow_route_without_a_finding_says_so() -> None:
    (route,) = report_of(requests("/prices", 10, 8.0), spent("/prices", handler_await=7.0, handler=1.0)).routes
    assert (route.slow, route.unexplained) == (True, True)
    assert route.sentence == "slow, and none of the known reasons: 88% awaiting in the endpoint"


def test_a_route_is_slow_from_its_95th_percentile_on_and_not_after_two_requests() -> None:
    (few,) = report_of(requests("/prices", 2, 8.0), spent("/prices", handler_await=8.0)).routes
    assert not few.slow
    quick = [(name, labels, value) for name, labels, value in requests("/prices", 10, 1.0)]
    quick = [(name, labels, 10.0 if labels.get("le") == "0.1" else value) for name, labels, value in quick]
    (fast,) = report_of(iter(quick), spent("/prices", handler_await=1.0)).routes
    assert not fast.slow
