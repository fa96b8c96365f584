"""Panels that several dashboards share."""

from typing import Final

from grafana_foundation_sdk.models import dashboard as models

from tools.dashboards import links
from tools.dashboards.panels import BLUE, NONE_SEEN, RED, SEGMENTS, YELLOW, Column, Query, cells, lines, rows
from tools.dashboards.promql import (
    ACTIVE_ALERTS,
    FAILED,
    RANGE,
    REQUESTS,
    ROUTE_LABELS,
    buckets,
    by,
    events,
    increase,
    mean,
    quantile,
    rate,
    share,
)

#: causes of a block of the event loop: otel_fastperf/event_loop/cause.py
CAUSES: Final = (
    "cpu: computation; sync_io: a call that waits; gc: the garbage collector; gil_held: other threads or C code; "
    "descheduled: the machine was busy."
)
TIME: Final = "fastperf_request_time_seconds_total"
FINDINGS: Final = "fastperf_findings_total"
ROUTE: Final = 'http_request_method=~"$method", http_route=~"$route"'


def series_of_alerts(metric: str) -> str:
    """`ALERTS` or `ALERTS_FOR_STATE` of the chosen services and of the stack."""
    return f"{metric}{{{ACTIVE_ALERTS}}}"


_LABELS: Final = ("__field.labels.http_request_method", "__field.labels.http_route")
SERIES_TO_ROUTE: Final = links.route_dashboard("__field.labels.job", *_LABELS)
SERIES_TO_TRACES: Final = links.traces("__field.labels.job", tags=links.tags_of_route(*_LABELS))


def mean_by_segment(*matchers: str, width: int = 12, height: int = 9) -> models.Panel:
    """The mean request, cut into the segments of the time budget."""
    per_request = (
        f"{rate(TIME, *matchers, per=('segment',))} / ignoring (segment) group_left () "
        f"({rate(f'{REQUESTS}_count', *matchers)} > 0)"
    )
    return lines(
        "Time of a mean request, by segment",
        "Every moment of a request belongs to one segment, so the height of the stack is the mean duration. Start "
        "with the largest segment. Good: mostly db and handler, hardly any pool_wait, threadpool_wait, loop_wait or"
        " gc. Pale colours: the part of the app awaits something. docs/time-budget.md describes the segments.",
        "s",
        Query(per_request, "{{segment}}"),
        stacked=True,
        colours=SEGMENTS,
        width=width,
        height=height,
    )


def share_by_segment(*matchers: str, width: int = 12, height: int = 9) -> models.Panel:
    """The segments as shares of 1, which shows a shift independently of traffic."""
    part = f"{rate(TIME, *matchers, per=('segment',))} / ignoring (segment) group_left () ({rate(TIME, *matchers)} > 0)"
    return lines(
        "Share of the time, by segment",
        "The segments as shares of the whole. A share that grows after a deploy shows what the deploy made slower, "
        "independently of traffic.",
        "percentunit",
        Query(part, "{{segment}}"),
        stacked=True,
        maximum=1,
        colours=SEGMENTS,
        width=width,
        height=height,
    )


def durations(*matchers: str, width: int = 8, height: int = 8) -> models.Panel:
    """p50, p95 and p99 with exemplars."""
    return lines(
        "Duration: p50, p95, p99",
        "Half of the requests are faster than p50; one in a hundred is slower than p99. Each dot is a traced "
        "request: click it to open the trace in Jaeger. Good: p99 is a small multiple of p50, and both are stable.",
        "s",
        Query(quantile(0.5, REQUESTS, *matchers), "p50", exemplars=True),
        Query(quantile(0.95, REQUESTS, *matchers), "p95"),
        Query(quantile(0.99, REQUESTS, *matchers), "p99"),
        colours={"p50": "green", "p95": "yellow", "p99": "red"},
        width=width,
        height=height,
    )


def duration_cells(*matchers: str, width: int = 12, height: int = 8) -> models.Panel:
    """The distribution of durations over time."""
    return cells(
        "Distribution of durations",
        "Number of requests by duration: darker means more. Two bands mean two kinds of requests, such as cached "
        "and uncached, which quantiles hide. Dots are traced requests. Good: one narrow band near the bottom.",
        "s",
        Query(buckets(REQUESTS, *matchers), "{{le}}", exemplars=True),
        width=width,
        height=height,
    )


def findings_table(*matchers: str, width: int = 24, height: int = 9, title: str = "Findings") -> models.Panel:
    """Bottlenecks by kind, service and route."""
    return rows(
        title,
        "Bottlenecks that the service detected in the time range. The log and the trace name the line of code and "
        "the remedy; the Findings dashboard explains each kind. A finding without a route is outside of routes or"
        " affects many. Good: empty.",
        {
            f"{events(FINDINGS, *matchers, per=('job', 'kind', *ROUTE_LABELS))} > 0": Column(
                "times seen", bar=True, decimals=0
            )
        },
        {
            "kind": Column("kind", width=220),
            "job": Column("service", width=180),
            "http_request_method": Column("method", width=90),
            "http_route": Column("route", links=(TO_ROUTE_ROW, TO_TRACES_ROW)),
        },
        order="times seen",
        no_value=NONE_SEEN,
        width=width,
        height=height,
    )


def alerts_table(*, width: int = 24, height: int = 5) -> models.Panel:
    """Alerts that fire or are about to."""
    kept = series_of_alerts("ALERTS")
    since = f"{series_of_alerts('ALERTS_FOR_STATE')} * 1000 * ignoring (alertstate) group_right () {kept}"
    return rows(
        "Alerts",
        "Alerts of the chosen services, and of the stack that observes them, now: firing, or pending until their time "
        "is over. The notification of each has its runbook. Good: empty.",
        {
            f"min by (severity, alertname, job, alertstate) ({since})": Column(
                "since", unit="dateTimeFromNow", width=180
            )
        },
        {
            "severity": Column("severity", width=110, words=(("page", RED), ("ticket", "orange"), ("info", BLUE))),
            "alertname": Column("alert"),
            "job": Column("service", width=180),
            "alertstate": Column("state", width=110, words=(("firing", RED), ("pending", YELLOW))),
        },
        order="since",
        no_value=NONE_SEEN,
        width=width,
        height=height,
    )


def failures(*matchers: str, per: tuple[str, ...], legend: str, width: int = 8) -> models.Panel:
    """Failed requests per second."""
    return lines(
        "Failed requests",
        "Requests that ended in a 5xx or an exception, even if a 200 and the first byte had been sent. A 4xx does "
        "not count. Click for the route or its traces. Good: none.",
        "reqps",
        Query(f"{rate(f'{REQUESTS}_count', FAILED, *matchers, per=per)} > 0", legend),
        width=width,
        bars=True,
        stacked=True,
        failing=True,
        no_value=NONE_SEEN,
        links=(SERIES_TO_ROUTE, SERIES_TO_TRACES),
    )


def failed_share(*matchers: str, per: tuple[str, ...] = ("job",)) -> str:
    """Failed requests as a part of all."""
    count = f"{REQUESTS}_count"
    return share(rate(count, FAILED, *matchers, per=per), rate(count, *matchers, per=per))


def verdict_table(*, width: int = 12, height: int = 9) -> models.Panel:
    """The largest segment of each route."""
    per = ("job", *ROUTE_LABELS)
    whole = f"({increase(TIME, per=per)} > 0)"
    largest = f"topk{by(*per)} (1, {increase(TIME, per=(*per, 'segment'))} / ignoring (segment) group_left () {whole})"
    return rows(
        "Largest segment of each route",
        "The largest segment of each route in the time range, and the total time of all its requests: a faster "
        "segment saves most in the top rows. Click a route to open its dashboard.",
        {
            largest: Column("of its time", unit="percentunit", width=90),
            increase(TIME, per=per): Column("total time", unit="s", bar=True, width=190),
        },
        {
            "http_request_method": Column("method", width=90),
            "http_route": Column("route", links=(TO_ROUTE_ROW, TO_TRACES_ROW)),
            "job": Column("service", width=90),
            "segment": Column("largest segment", width=140),
        },
        order="total time",
        width=width,
        height=height,
    )


def routes_table(*, width: int = 24, height: int = 10) -> models.Panel:
    """Rate, errors and duration by route."""
    per = ("job", *ROUTE_LABELS)
    count = f"{REQUESTS}_count"
    failed = share(increase(count, FAILED, per=per), increase(count, per=per))
    return rows(
        "Routes",
        "Rate, errors and duration of every route in the time range. Good: no failures, and a p95 that the route's "
        "users consider fast.",
        {
            rate(count, per=per, over=RANGE): Column("requests", unit="reqps", bar=True, width=260),
            failed: Column("failed", unit="percentunit", width=100, limits=((None, "green"), (0.001, "red"))),
            quantile(0.5, REQUESTS, per=per, over=RANGE): Column("p50", unit="s", width=100),
            quantile(0.95, REQUESTS, per=per, over=RANGE): Column("p95", unit="s", width=100),
            mean("fastperf_request_db_statements", per=per, over=RANGE): Column("statements", unit="short", width=110),
        },
        {
            "http_request_method": Column("method", width=90),
            "http_route": Column("route", links=(TO_ROUTE_ROW, TO_TRACES_ROW)),
            "job": Column("service", width=140),
        },
        order="requests",
        width=width,
        height=height,
    )


# Links of a table use the titles of its columns, because Grafana renames columns before it makes links.
_FIELDS: Final = ("__data.fields.method", "__data.fields.route")
TO_ROUTE_ROW: Final = links.route_dashboard("__data.fields.service", *_FIELDS)
TO_TRACES_ROW: Final = links.traces("__data.fields.service", tags=links.tags_of_route(*_FIELDS))
