"""One route: its time budget, its rate, errors and duration, and what it does to the database and the loop."""

from typing import Final

from tools.dashboards import links
from tools.dashboards.common import (
    CAUSES,
    ROUTE,
    TIME,
    duration_cells,
    durations,
    failed_share,
    failures,
    findings_table,
    mean_by_segment,
    share_by_segment,
)
from tools.dashboards.layout import Board
from tools.dashboards.panels import NONE_SEEN, STATUSES, Query, Row, lines, numbers, ok_below
from tools.dashboards.promql import RANGE, REQUESTS, ROUTE_LABELS, increase, mean, quantile, rate

_COUNT: Final = f"{REQUESTS}_count"
_STATEMENTS: Final = "fastperf_request_db_statements"
_AWAIT: Final = "fastperf_request_await_seconds_total"
_BLOCKED: Final = "fastperf_event_loop_blocked_seconds"
_TAGS: Final = links.tags_of_route("method", "route")

_SUMMARY: Final = Row(
    "Summary",
    [
        numbers(
            "Largest segment",
            "The segment in which the route spends most of its time in the time range, and its share. Good: db or "
            "handler.",
            "percentunit",
            Query(
                f"topk(1, {increase(TIME, ROUTE, per=('segment',))} / ignoring (segment) group_left () "
                f"({increase(TIME, ROUTE)} > 0))",
                "{{segment}}",
            ),
            width=6,
            instant=True,
            show="value_and_name",
            decimals=0,
        ),
        numbers(
            "Requests",
            "Requests per second of the route. Good: usual for the time of day.",
            "reqps",
            Query(rate(_COUNT, ROUTE), "requests"),
            width=4,
        ),
        numbers(
            "Failed",
            "Share of requests that ended in a 5xx or an exception. Good: 0.",
            "percentunit",
            Query(failed_share(ROUTE, per=()), "failed"),
            width=4,
            limits=ok_below(0.001, 0.01),
            decimals=2,
        ),
        numbers(
            "p95",
            "19 of 20 requests are faster. Good: below what the users of this route notice.",
            "s",
            Query(quantile(0.95, REQUESTS, ROUTE), "p95"),
            width=4,
            limits=ok_below(0.25, 1),
        ),
        numbers(
            "Statements per request",
            "Mean number of SQL statements per request. Good: a handful, independent of the number of rows.",
            "none",
            Query(mean(_STATEMENTS, ROUTE, over=RANGE), "statements"),
            width=6,
            instant=True,
            limits=ok_below(10, 50),
            decimals=1,
        ),
    ],
)

_WORK: Final = Row(
    "Statements, event loop, bodies",
    [
        lines(
            "Statements per request",
            "The mean, and p95. If p95 is far above the mean, the number depends on the data: look for n_plus_one. "
            "Good: stable and low.",
            "short",
            Query(mean(_STATEMENTS, ROUTE), "mean"),
            Query(quantile(0.95, _STATEMENTS, ROUTE), "p95"),
        ),
        lines(
            "Event loop blocked, by cause",
            "Share of time in which this route blocked the event loop, so that no other request was served. Good: "
            f"none. {CAUSES}",
            "percentunit",
            Query(f"{rate(f'{_BLOCKED}_sum', ROUTE, per=('cause',))} > 0", "{{cause}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Size of bodies",
            "Mean size of request and response. The segments serialization and send grow with it. Good: pages, not "
            "whole tables.",
            "bytes",
            Query(mean("http_server_request_body_size_bytes", ROUTE), "request"),
            Query(mean("http_server_response_body_size_bytes", ROUTE), "response"),
        ),
        findings_table(ROUTE, height=7, title="Findings of this route"),
    ],
)

BOARD: Final = Board(
    uid="fastperf-route",
    title="Fastperf / Route",
    description="One route, or several: time budget, rate, errors, duration, statements, findings.",
    rows=(
        _SUMMARY,
        Row(
            "Time budget",
            [
                mean_by_segment(ROUTE, width=12, height=10),
                share_by_segment(ROUTE, width=12, height=10),
                lines(
                    "What slow requests await",
                    "Mean number of requests over 0.1 s that await this function, or compute it in a thread. The "
                    "report and the spans have the lines. Good: what the route is there for, and little of it.",
                    "short",
                    Query(
                        f"topk(10, {rate(_AWAIT, ROUTE, per=('activity', 'library', 'function'))} > 0)",
                        "{{activity}} {{library}} {{function}}",
                    ),
                    stacked=True,
                    width=24,
                    no_value=NONE_SEEN,
                ),
            ],
        ),
        Row(
            "Rate, errors, duration",
            [
                lines(
                    "Requests by method and status",
                    "Requests per second. Good: mostly 2xx.",
                    "reqps",
                    Query(
                        rate(_COUNT, ROUTE, per=("http_request_method", "http_response_status_code")),
                        "{{http_request_method}} {{http_response_status_code}}",
                    ),
                    stacked=True,
                    colours=STATUSES,
                    width=6,
                ),
                failures(ROUTE, per=("job", *ROUTE_LABELS, "error_type"), legend="{{error_type}}", width=6),
                durations(ROUTE, width=6),
                duration_cells(ROUTE, width=6),
            ],
        ),
        _WORK,
    ),
    by_route=True,
    links=(links.traces("job", tags=_TAGS),),
)
