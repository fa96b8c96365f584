"""Figures of a report, formatted for people."""

from dataclasses import replace

import pytest

from otel_fastperf import Report, Severity
from otel_fastperf.metrics import HTTP_SECONDS
from otel_fastperf.report.histograms import Quantile
from otel_fastperf.report.labels import (
    LATENCY_BOUNDS,
    PLAIN,
    awaited_lines,
    duration,
    evidence,
    headline,
    latency,
    moment,
    subline,
)
from otel_fastperf.report.model import AwaitedLine
from otel_fastperf.requests.time_budget import Segment
from tests.reports import GROWTH, N_PLUS_ONE, ORDERS, SHOP


def test_a_quantile_at_the_end_of_the_buckets_is_marked() -> None:
    assert (HTTP_SECONDS[0], HTTP_SECONDS[-1]) == LATENCY_BOUNDS
    assert latency(0.005) == Quantile(0.005, "<")
    assert latency(0.006) == Quantile(0.006)
    assert latency(10.0) == Quantile(10.0, ">")
    assert latency(None) is None
    assert latency(30.0, (1.0, 60.0)) == Quantile(30.0)
    assert latency(0.5, (1.0, 60.0)) == Quantile(0.5, "<")


def test_every_segment_has_a_plain_label() -> None:
    assert set(PLAIN) == set(Segment)
    assert len(set(PLAIN.values())) == len(PLAIN)


def with_findings(*severities: Severity) -> Report:
    found = tuple(replace(GROWTH, severity=severity) for severity in severities)
    return replace(SHOP, findings=found)


def test_the_headline_counts_the_findings() -> None:
    assert headline(SHOP) == "shop: 1 critical bottleneck, 1 warning"
    three = with_findings(Severity.INFO, Severity.CRITICAL, Severity.CRITICAL)
    assert headline(three) == "shop: 2 critical bottlenecks, 1 remark"
    assert headline(with_findings()) == "shop: no bottleneck was seen"
    assert headline(replace(with_findings(), service="")) == "This service: no bottleneck was seen"


def test_the_subline_has_process_duration_and_rates() -> None:
    assert subline(SHOP) == "pid 4711, measured for 1 min, 20.7 requests and 1,050 SQL statements a second"


def test_what_a_route_awaits_is_not_told_twice() -> None:
    lines = tuple(
        AwaitedLine(text=f"awaiting {what}", seconds=share, share=share)
        for what, share in (("httpx", 0.5), ("redis", 0.3), ("sleep", 0.01))
    )
    route = replace(ORDERS, awaited=lines, sentence="slow")
    assert list(awaited_lines(route)) == ["50% awaiting httpx", "30% awaiting redis"]
    said = replace(route, sentence="slow, and none of the known reasons: 50% awaiting httpx")
    assert list(awaited_lines(said)) == ["30% awaiting redis"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.4, "0 s"), (59.0, "59 s"), (61.0, "1 min"), (7500.0, "2 h 5 min"), (187_200.0, "2 d 4 h")],
)
def test_a_long_time_has_two_units_at_most(value: float, expected: str) -> None:
    assert duration(value) == expected


def test_times_are_utc() -> None:
    assert moment(1_700_000_061.0) == "2023-11-14 22:14:21 UTC"
    assert moment(float("inf")) == "inf"


def test_evidence_is_shown_in_the_unit_of_its_name() -> None:
    shown = {name: evidence(name, value) for name, value in N_PLUS_ONE.evidence.items()}
    assert (shown["repeats"], shown["seconds"], shown["share"], shown["new_connection"]) == (
        "50",
        "385 ms",
        "81.0%",
        "no",
    )
    assert shown["frames"] == "orders.py:41, main.py:7"
    assert evidence("grown_bytes", 57_315_328) == "55 MiB"
    assert evidence("waiting", -1) == "-1"
    assert evidence("share_of_last_minute", 0.0836) == "8.4%"
    assert evidence("mib_per_minute", 828.6) == "828.6"
