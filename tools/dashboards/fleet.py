"""All services: which one is worst by budget, by findings, by segment, and what is about to run out where.

Every query reads what fleet.yml records, about 20 series for each service, so it answers for thousands of them.
"""

from typing import Final

from tools.dashboards import links
from tools.dashboards.layout import Board
from tools.dashboards.panels import (
    NONE_SEEN,
    SEGMENTS,
    Column,
    Query,
    Row,
    gauges,
    lines,
    numbers,
    ok_above,
    ok_below,
    rows,
)
from tools.dashboards.promql import JOB, RANGE, series

_MOST: Final = 15
_TO_SERVICE: Final = links.service_dashboard("fastperf-overview", "Overview of this service", "__data.fields.service")
_LINE_TO_SERVICE: Final = links.service_dashboard("fastperf-overview", "Overview of this service", "__field.labels.job")
_TO_FINDINGS: Final = links.service_dashboard("fastperf-findings", "Findings of this service", "__data.fields.service")
_SERVICE: Final = Column("service", links=(_TO_SERVICE,))


def _of(name: str) -> str:
    """A recorded series, one per service and its further labels."""
    return series(name, of=JOB)


def _cell(name: str) -> str:
    """The same for a table: a metric's name would be a column, and keep the queries in rows of their own."""
    return f"max by (job) ({_of(name)})"


_REQUESTS: Final = _of("job:http_server_requests:rate5m")
_TIME: Final = _of("job_segment:fastperf_request_time:rate5m")
_FINDINGS: Final = _of("job_kind:fastperf_findings:increase15m")
_SATURATION: Final = _of("job_resource:fastperf_saturation:ratio")
_AVAILABILITY: Final = "job:slo_availability_burn:ratio_rate1h"
_LATENCY: Final = "job:slo_latency_burn:ratio_rate1h"
_WAITING: Final = series(
    "job_segment:fastperf_request_time:rate5m", 'segment=~"pool_wait|threadpool_wait|loop_wait"', of=JOB
)
#: seconds of a mean request, by service and segment
_PER_REQUEST: Final = f"{_TIME} / on (job) group_left () ({_REQUESTS} > 0)"
#: the share of a service's time, by segment
_SHARE: Final = f"{_TIME} / on (job) group_left () (sum by (job) ({_TIME}) > 0)"


def _worst(name: str) -> str:
    """The series that were highest in the time range: a `topk` at each point would draw ever others."""
    return f"{_of(name)} and on (job) topk(10, max_over_time({_of(name)}[{RANGE}] @ end()))"


_WHOLE: Final = Row(
    "All of them",
    [
        numbers(
            "Services",
            "Services that this Prometheus knows. Good: all that should run.",
            "short",
            Query(f"count({_of('job:fastperf_service:info')})"),
            decimals=0,
        ),
        numbers(
            "Instances up",
            "Processes that answered the last scrape.",
            "short",
            Query(f"sum({_of('job:fastperf_instances:up')})"),
            decimals=0,
        ),
        numbers("Requests", "Requests per second of all services.", "reqps", Query(f"sum({_REQUESTS})")),
        numbers(
            "Burning",
            "Services that use up a budget, of errors or latency, faster than it lasts 30 days. Good: 0.",
            "short",
            Query(
                f"count(({_of(_AVAILABILITY)} > 1) or ({_of(_LATENCY)} > 1)) or vector(0)",
            ),
            limits=ok_below(1, 10),
            decimals=0,
        ),
        numbers(
            "Budget spent",
            "Services that have no error budget left for the last 30 days. Good: 0.",
            "short",
            Query(f"count({_of('job:slo_availability_budget:remaining_ratio')} <= 0) or vector(0)"),
            limits=ok_below(1, 10),
            decimals=0,
        ),
        numbers(
            "With findings",
            "Services with a finding in the last 15 minutes. Good: 0.",
            "short",
            Query(f"count(group by (job) ({_FINDINGS})) or vector(0)"),
            limits=ok_below(1, 100),
            decimals=0,
        ),
        numbers(
            "Processors",
            "Processors that all services use, in CPU seconds per second.",
            "none",
            Query(f"sum({_of('job:fastperf_cpu_seconds:rate5m')})"),
            decimals=1,
        ),
        numbers(
            "Spans",
            "Spans per second that all services export: what storage of traces has to take.",
            "ops",
            Query(f"sum({_of('job:fastperf_spans_exported:rate5m')})"),
        ),
    ],
)

_BUDGETS: Final = Row(
    "Budgets",
    [
        rows(
            "Services",
            "Each service with its traffic, budgets and findings. A burn of 1 spends a budget in 30 days, 14.4 in two "
            "days; what is left of it counts the last 30 days. Good: burns below 1. Click a service for its overview.",
            {
                _cell(_AVAILABILITY): Column("error burn", decimals=1, width=100, limits=ok_below(1, 14.4)),
                _cell(_LATENCY): Column("latency burn", decimals=1, width=110, limits=ok_below(1, 14.4)),
                _cell("job:slo_availability_budget:remaining_ratio"): Column(
                    "errors left", unit="percentunit", decimals=0, width=110, limits=ok_above(0, 0.25)
                ),
                _cell("job:slo_latency_budget:remaining_ratio"): Column(
                    "latency left", unit="percentunit", decimals=0, width=110, limits=ok_above(0, 0.25)
                ),
                f"max by (job) ({_REQUESTS})": Column("requests", unit="reqps", width=110),
                f"sum by (job) ({_TIME}) / on (job) ({_REQUESTS} > 0)": Column("mean", unit="s", width=90),
                f"sum by (job) ({_FINDINGS})": Column("findings", decimals=0, width=120),
                f"max by (job) ({_SATURATION})": Column(
                    "fullest", unit="percentunit", decimals=0, width=90, limits=ok_below(0.8, 1)
                ),
            },
            {"job": _SERVICE},
            order="error burn",
            height=12,
        ),
        lines(
            "Burn of error budgets: the ten highest",
            "How fast failures use up the error budget, over one hour. At 14.4 the page comes. Good: below 1.",
            "none",
            Query(_worst(_AVAILABILITY), "{{job}}"),
            width=12,
            fill=0,
            links=(_LINE_TO_SERVICE,),
        ),
        lines(
            "Burn of latency budgets: the ten highest",
            "How fast slow requests use up the latency budget, over one hour. At 14.4 the page comes. Good: below 1.",
            "none",
            Query(_worst(_LATENCY), "{{job}}"),
            width=12,
            fill=0,
            links=(_LINE_TO_SERVICE,),
        ),
    ],
)

_FOUND: Final = Row(
    "Findings",
    [
        rows(
            "Most findings",
            "The services and kinds with the most findings in the last 15 minutes. Click a service for its findings, "
            "with routes and remedies. Good: empty.",
            {f"topk(50, max by (job, kind) ({_FINDINGS}))": Column("15 minutes", bar=True, decimals=0)},
            {"job": Column("service", width=260, links=(_TO_FINDINGS,)), "kind": Column("kind", width=200)},
            order="15 minutes",
            no_value=NONE_SEEN,
            width=12,
            height=10,
        ),
        gauges(
            "Services with this kind",
            "Number of services that had a finding of the kind in the last 15 minutes. Many with one kind share its "
            "cause, such as a library or a template of services.",
            "short",
            Query(f"count by (kind) ({_FINDINGS})", "{{kind}}"),
            width=6,
            height=10,
            decimals=0,
            no_value=NONE_SEEN,
        ),
        lines(
            "Findings by kind",
            "Findings of all services in the last 15 minutes, by kind. A kind that rises with a release of a shared "
            "library came with it.",
            "short",
            Query(f"sum by (kind) ({_FINDINGS})", "{{kind}}"),
            width=6,
            height=10,
            fill=0,
            no_value=NONE_SEEN,
        ),
    ],
)

_SEGMENTS: Final = Row(
    "Segments of the time budget",
    [
        lines(
            "Time of all requests, by segment",
            "Seconds of requests per second, over all services: what a faster segment saves in the whole company. "
            "docs/time-budget.md describes the segments.",
            "none",
            Query(f"sum by (segment) ({_TIME})", "{{segment}}"),
            stacked=True,
            colours=SEGMENTS,
            width=12,
            height=10,
        ),
        rows(
            "Worst service of each segment",
            "For each segment the three services whose mean request spends most in it. Click one for its overview.",
            {f"topk by (segment) (3, {_PER_REQUEST})": Column("per request", unit="s", bar=True)},
            {"segment": Column("segment", width=160), "job": Column("service", width=220, links=(_TO_SERVICE,))},
            order="segment",
            width=12,
            height=10,
        ),
        rows(
            "Largest segment of each service",
            "What to make faster first in each service, and the time that all its requests take. Click one for its "
            "overview.",
            {
                f"topk by (job) (1, {_SHARE})": Column("of its time", unit="percentunit", width=110),
                f"sum by (job) ({_TIME})": Column("seconds per second", bar=True, decimals=2),
            },
            {
                "job": Column("service", width=220, links=(_TO_SERVICE,)),
                "segment": Column("largest segment", width=160),
            },
            order="seconds per second",
            width=12,
            height=10,
        ),
        gauges(
            "Time spent waiting: the highest shares",
            "Share of a service's time in which its requests wait for a connection, a thread or the event loop. Good: "
            "below 5 %; more is a matter of sizes or of blocking code, not of the work itself.",
            "percentunit",
            Query(f"topk({_MOST}, sum by (job) ({_WAITING}) / on (job) (sum by (job) ({_TIME}) > 0))", "{{job}}"),
            width=12,
            height=10,
            maximum=1,
            limits=ok_below(0.05, 0.25),
        ),
    ],
)

_REST: Final = Row(
    "What is about to run out, and what telemetry costs",
    [
        gauges(
            "Fullest resources",
            "The event loop, connection pools, threads and memory that are closest to their limits, of the fullest "
            "instance of each service. At 100 % requests wait, or the container is killed. Good: below 80 %.",
            "percentunit",
            Query(f"topk({_MOST}, {_SATURATION})", "{{job}} {{resource}}"),
            width=12,
            height=10,
            maximum=1,
            limits=ok_below(0.8, 1),
        ),
        rows(
            "Cost of telemetry",
            "What each service makes Prometheus and the storage of traces keep, and its processors to compare with.",
            {
                _cell("job:fastperf_series:count"): Column("series", bar=True, decimals=0),
                _cell("job:fastperf_spans_exported:rate5m"): Column("spans", unit="ops", width=110),
                _cell("job:fastperf_cpu_seconds:rate5m"): Column("processors", decimals=2, width=110),
            },
            {"job": Column("service", width=220, links=(_TO_SERVICE,))},
            order="series",
            width=12,
            height=10,
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-fleet",
    title="Fastperf / All services",
    description="All services at a glance: the worst by budget, findings and segment, and what is about to run out.",
    rows=(_WHOLE, _BUDGETS, _FOUND, _SEGMENTS, _REST),
)
