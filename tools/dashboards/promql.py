"""Builds the PromQL of panels. Every selector of an app's metric has the variables `job` and `instance`."""

from typing import Final

#: matchers of an app's own series
APP: Final = 'job=~"$job", instance=~"$instance"'
#: matchers of series that the rules record per service
JOB: Final = 'job=~"$job"'
#: the smallest window for a rate, four scrapes (Grafana computes it from the data source's timeInterval)
INTERVAL: Final = "$__rate_interval"
#: the dashboard's whole time range, for tables and totals
RANGE: Final = "$__range"

#: a metric that every instrumented service has from its start
EVERY_APP: Final = "fastperf_build_info"
REQUESTS: Final = "http_server_request_duration_seconds"
#: failed requests, as the objectives count them: a 5xx, or an exception after the first byte of a 200. A client that
#: disconnected and the overflow series do not count.
FAILED: Final = 'error_type!~"|ClientDisconnect|_OVERFLOW"'
#: every service, for rules and scrapes
ANY_JOB: Final = 'job=~".+"'
#: alerts of the chosen services and of the stack that observes them; Watchdog always fires
ACTIVE_ALERTS: Final = 'job=~"$job|otel-collector|jaeger|prometheus|alertmanager|", alertname!="Watchdog"'
#: labels of a route
ROUTE_LABELS: Final = ("http_request_method", "http_route")
#: legend of a graph by service and route
ROUTE_LEGEND: Final = "{{job}} {{http_request_method}} {{http_route}}"
#: observed while a request was served
OF_ROUTE: Final = 'http_route!=""'


def series(metric: str, *matchers: str, of: str = APP) -> str:
    """A selector, by default for the series of the chosen services."""
    return f"{metric}{{{', '.join((of, *matchers))}}}"


def by(*labels: str) -> str:
    """` by (a, b)`, or nothing."""
    return f" by ({', '.join(labels)})" if labels else ""


def rate(
    metric: str, *matchers: str, per: tuple[str, ...] = (), over: str = INTERVAL, of: str = APP, at: str = ""
) -> str:
    """A counter's increase per second, added up `per` label; `at` is a modifier such as ` @ end()`."""
    return f"sum{by(*per)} (rate({series(metric, *matchers, of=of)}[{over}]{at}))"


def increase(metric: str, *matchers: str, per: tuple[str, ...] = (), over: str = RANGE, of: str = APP) -> str:
    """A counter's increase within a window, added up `per` label."""
    return f"sum{by(*per)} (increase({series(metric, *matchers, of=of)}[{over}]))"


def events(metric: str, *matchers: str, per: tuple[str, ...] = (), over: str = RANGE) -> str:
    """Number of rare events in a window, including the first one.

    A counter with labels begins as 1, with its first event, in which `increase` sees no increase. So if there was no
    series when the window began, its value counts.
    """
    one = series(metric, *matchers)
    return f"sum{by(*per)} (({one} unless {one} offset {over}) or increase({one}[{over}]))"


def share(part: str, whole: str) -> str:
    """`part` divided by `whole`, with the same labels: 0 if there is no such part, absent if there is no whole."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def mean(histogram: str, *matchers: str, per: tuple[str, ...] = (), over: str = INTERVAL) -> str:
    """The mean of a histogram's observations."""
    total = rate(f"{histogram}_sum", *matchers, per=per, over=over)
    return f"{total} / ({rate(f'{histogram}_count', *matchers, per=per, over=over)} > 0)"


def quantile(
    share_of: float, histogram: str, *matchers: str, per: tuple[str, ...] = (), over: str = INTERVAL, at: str = ""
) -> str:
    """A quantile of a histogram, as exact as its buckets are."""
    observed = rate(f"{histogram}_bucket", *matchers, per=("le", *per), over=over, at=at)
    return f"histogram_quantile({share_of:g}, {observed})"


def slowest(most: int, share_of: float, histogram: str, *, per: tuple[str, ...]) -> str:
    """A quantile over time, for the slowest series of the whole range.

    `topk` alone selects again at every point, so a graph would show every series that was ever among the slowest.
    """
    ranked = quantile(share_of, histogram, per=per, over=RANGE, at=" @ end()")
    return f"{quantile(share_of, histogram, per=per)} and{on(*per)} topk({most}, {ranked})"


def on(*labels: str) -> str:
    """` on (a, b)`: the labels that both sides of an operator must share."""
    return f" on ({', '.join(labels)})"


def own(expr: str) -> str:
    """Restrict series of metrics that every program has to instrumented services.

    Otherwise `process_*` of Prometheus and the collector would be included when all services are chosen.
    """
    return f"{expr} and{on('job', 'instance')} {series(EVERY_APP)}"


def per_worker(expr: str) -> str:
    """The mean of an instance's workers: their counters are summed. `expr` has the labels `job` and `instance`."""
    return f"{expr} / on (job, instance) {series('fastperf_workers')}"


def up() -> str:
    """1 for each instance of an instrumented service whose scrape succeeded, else 0."""
    return f"({series('up')} and{on('job')} max_over_time({series(EVERY_APP)}[{RANGE}]))"


def buckets(histogram: str, *matchers: str) -> str:
    """The data of a histogram's heatmap."""
    return increase(f"{histogram}_bucket", *matchers, per=("le",), over=INTERVAL)
