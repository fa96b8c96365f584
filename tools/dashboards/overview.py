"""The first look: is the service healthy and fast, where does its time go, and what is about to run out."""

from typing import Final

from tools.dashboards import links
from tools.dashboards.common import (
    FINDINGS,
    SERIES_TO_ROUTE,
    alerts_table,
    duration_cells,
    durations,
    failed_share,
    failures,
    findings_table,
    mean_by_segment,
    routes_table,
    verdict_table,
)
from tools.dashboards.layout import Board
from tools.dashboards.panels import STATUSES, Query, Row, lines, numbers, ok_above, ok_below
from tools.dashboards.promql import (
    JOB,
    REQUESTS,
    ROUTE_LABELS,
    ROUTE_LEGEND,
    events,
    quantile,
    rate,
    series,
    slowest,
    up,
)

_COUNT: Final = f"{REQUESTS}_count"
_USED: Final = 'db_client_connection_state="used"'
_FINDINGS: Final = (links.dashboard("fastperf-findings", "Findings"),)
_RUNTIME: Final = (links.dashboard("fastperf-runtime", "Runtime"),)
_DATABASE: Final = (links.dashboard("fastperf-database", "Database"),)


def _recorded(name: str) -> str:
    """A series that the rules recorded, one per service."""
    return f"max by (job) ({series(name, of=JOB)})"


_WELL: Final = Row(
    "Health",
    [
        numbers(
            "Error budget",
            "Remaining share of the failures that the availability objective allows in 30 days. 100 %: none used. "
            "Below 0: the objective is missed, and reliability comes before features. slo-targets.yml has the "
            "targets.",
            "percentunit",
            Query(_recorded("job:slo_availability_budget:remaining_ratio"), "{{job}}"),
            limits=ok_above(0, 0.25),
            decimals=1,
        ),
        numbers(
            "Latency budget",
            "Remaining share of the slow requests that the latency objective allows in 30 days. A request is slow "
            "if it takes longer than job:slo_latency_threshold:seconds.",
            "percentunit",
            Query(_recorded("job:slo_latency_budget:remaining_ratio"), "{{job}}"),
            limits=ok_above(0, 0.25),
            decimals=1,
        ),
        numbers(
            "Burn rate, 1 h",
            "How fast the error budget is used up: at 1 it lasts 30 days, at 14.4 two days. A page fires at 14.4 if"
            " the last five minutes are as bad. Good: below 1.",
            "none",
            Query(
                f"{_recorded('job:slo_availability_errors:ratio_rate1h')} "
                f"/ (1 - {_recorded('job:slo_availability:objective')})",
                "{{job}}",
            ),
            limits=ok_below(1, 14.4),
            decimals=1,
        ),
        numbers(
            "Requests",
            "Requests per second of each service. Good: usual for the time of day; a sudden drop is as bad as a peak.",
            "reqps",
            Query(rate(_COUNT, per=("job",)), "{{job}}"),
        ),
        numbers(
            "Failed",
            "Share of requests that failed: a 5xx, or an exception after the first byte. Good: below what the "
            "objective allows, 0.1 % as shipped.",
            "percentunit",
            Query(failed_share(), "{{job}}"),
            limits=ok_below(0.001, 0.01),
            decimals=2,
        ),
        numbers(
            "p95",
            "19 of 20 requests are faster. Good: below what your users notice, about 0.25 s for a page.",
            "s",
            Query(quantile(0.95, REQUESTS, per=("job",)), "{{job}}"),
            limits=ok_below(0.25, 1),
        ),
        numbers(
            "Findings",
            "Bottlenecks that the service detected in the time range. Good: 0.",
            "short",
            Query(f"{events(FINDINGS, per=('job',))} or {rate(_COUNT, per=('job',))} * 0", "{{job}}"),
            limits=ok_below(1, 100),
            decimals=0,
            instant=True,
            links=_FINDINGS,
        ),
        numbers(
            "Instances up",
            "Processes that answered Prometheus' last scrape. Good: all that should run.",
            "short",
            Query(f"sum by (job) ({up()})", "{{job}}"),
            limits=ok_above(1, 1),
            decimals=0,
        ),
        alerts_table(),
    ],
)

_RED: Final = Row(
    "Rate, errors, duration",
    [
        lines(
            "Requests by status",
            "Requests per second by status code. Good: mostly 2xx. 4xx that begin with a deploy point to a broken "
            "client.",
            "reqps",
            Query(rate(_COUNT, per=("http_response_status_code",)), "{{http_response_status_code}}"),
            stacked=True,
            colours=STATUSES,
        ),
        failures(per=("job", *ROUTE_LABELS), legend=ROUTE_LEGEND),
        durations(),
        duration_cells(width=12),
        lines(
            "Slowest routes: p95",
            "The ten routes with the highest p95. Click one to open its dashboard. Good: only routes that are known"
            " to be slow, such as exports.",
            "s",
            Query(slowest(10, 0.95, REQUESTS, per=("job", *ROUTE_LABELS)), ROUTE_LEGEND),
            width=12,
            fill=0,
            links=(SERIES_TO_ROUTE,),
        ),
    ],
)

_TIME: Final = Row(
    "Where the time goes",
    [mean_by_segment(width=12), verdict_table(width=12), findings_table(width=24, height=8)],
)

_SATURATION: Final = Row(
    "Saturation: what is about to run out",
    [
        lines(
            "Event loop: busy",
            "Share of time in which the loop of each process ran code. A process has one loop: at 100 % requests "
            "queue up. Good: below 70 %.",
            "percentunit",
            Query(series("fastperf_event_loop_utilization_ratio"), "{{job}} {{instance}} {{worker}}"),
            maximum=1,
            width=6,
            limits=ok_below(0.7, 0.9),
            links=_RUNTIME,
        ),
        lines(
            "Connection pools: in use",
            "Connections in use as a share of the pool's maximum. At 100 % requests wait. Good: below 80 %.",
            "percentunit",
            Query(
                "sum by (job, instance, db_client_connection_pool_name) "
                f"({series('db_client_connection_count', _USED)}) "
                "/ on (job, instance, db_client_connection_pool_name) "
                f"({series('db_client_connection_max')} > 0)",
                "{{db_client_connection_pool_name}} {{instance}}",
            ),
            maximum=1,
            width=6,
            limits=ok_below(0.8, 1),
            links=_DATABASE,
        ),
        lines(
            "Threads: in use",
            "Busy threads of anyio's pool as a share of its limit. `def` endpoints and dependencies need one each; "
            "at 100 % they wait. Good: below 80 %.",
            "percentunit",
            Query(
                f"{series('fastperf_threadpool_borrowed')} / ({series('fastperf_threadpool_limit')} > 0)",
                "{{job}} {{instance}}",
            ),
            maximum=1,
            width=6,
            limits=ok_below(0.8, 1),
            links=_RUNTIME,
        ),
        lines(
            "Memory of each process",
            "Memory that the end of the process would free (USS). Good: stable after the first hours; steady growth"
            " is a leak. The Runtime dashboard forecasts when it reaches the limit.",
            "bytes",
            Query(series("fastperf_memory_unique_bytes"), "{{job}} {{instance}} {{worker}}"),
            width=6,
            links=_RUNTIME,
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-overview",
    title="Fastperf / Overview",
    description="Objectives, rate, errors and duration of the services, where their time goes, and which resources "
    "run out.",
    rows=(_WELL, _RED, _TIME, _SATURATION, Row("By route", [routes_table()])),
)
