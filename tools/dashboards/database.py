"""What the database is asked, how long it takes, and whether there are connections enough."""

from typing import Final

from tools.dashboards import links
from tools.dashboards.common import FINDINGS, findings_table
from tools.dashboards.layout import Board
from tools.dashboards.panels import GREEN, NONE_SEEN, RED, Query, Row, gauges, lines, numbers, ok_below
from tools.dashboards.promql import INTERVAL, RANGE, events, increase, mean, quantile, rate, series

_SQL: Final = "db_client_operation_duration_seconds"
_STATEMENTS: Final = "fastperf_request_db_statements"
_POOL: Final = "db_client_connection_pool_name"
_OF_POOL: Final = "{{db_client_connection_pool_name}}"
_OF_SQL: Final = 'kind=~"n_plus_one|slow_query|sync_db_on_loop"'
_OF_DATABASE: Final = 'kind=~"n_plus_one|slow_query|sync_db_on_loop|pool_wait"'
_RAISED: Final = 'error_type!=""'
_OPERATION: Final = ("db_operation_name",)

_SUMMARY: Final = Row(
    "In short",
    [
        numbers(
            "Statements",
            "SQL statements per second of each service. Good: it moves with requests, and not faster.",
            "ops",
            Query(rate(f"{_SQL}_count", per=("job",)), "{{job}}"),
            width=5,
        ),
        numbers(
            "p95 of a statement",
            "19 of 20 statements are faster. Good: a few milliseconds.",
            "s",
            Query(quantile(0.95, _SQL, per=("job",)), "{{job}}"),
            width=5,
            limits=ok_below(0.05, 0.5),
        ),
        numbers(
            "Statements per request",
            "Mean of all requests in the time range. Good: a handful.",
            "none",
            Query(mean(_STATEMENTS, per=("job",), over=RANGE), "{{job}}"),
            width=5,
            limits=ok_below(10, 50),
            decimals=1,
            instant=True,
        ),
        numbers(
            "Requests that wait now",
            "Requests that stand in a queue for a connection. Good: 0, always.",
            "short",
            Query(f"sum by (job) ({series('db_client_connection_pending_requests')})", "{{job}}"),
            width=5,
            limits=ok_below(1, 10),
            decimals=0,
        ),
        numbers(
            "Pool timeouts",
            "Waits for a connection that ended in the pool's timeout, within the time range: each was a failed "
            "request. Good: 0.",
            "short",
            Query(increase("db_client_connection_timeouts_total", per=("job",)), "{{job}}"),
            width=4,
            limits=((None, GREEN), (1, RED)),
            decimals=0,
            instant=True,
        ),
    ],
)

_SQL_ROW: Final = Row(
    "Statements",
    [
        lines(
            "Statements by operation",
            "Statements per second by what they do. Many times more SELECTs than requests point to n_plus_one.",
            "ops",
            Query(rate(f"{_SQL}_count", per=_OPERATION), "{{db_operation_name}}"),
            stacked=True,
        ),
        lines(
            "Duration by operation: p95",
            "What 19 of 20 statements of an operation stay below. Good: level while traffic grows.",
            "s",
            Query(quantile(0.95, _SQL, per=_OPERATION), "{{db_operation_name}}"),
        ),
        lines(
            "Time in the database, by operation",
            "Seconds per second that statements take together: 2 means that two connections are busy at any time. The "
            "largest band is what an index or a cache should go for.",
            "none",
            Query(rate(f"{_SQL}_sum", per=_OPERATION), "{{db_operation_name}}"),
            stacked=True,
        ),
        lines(
            "Failed statements",
            "Statements per second that raised an exception, by its type. Good: none; a few unique violations may be "
            "part of the app.",
            "ops",
            Query(
                f"{rate(f'{_SQL}_count', _RAISED, per=('db_operation_name', 'error_type'))} > 0",
                "{{db_operation_name}} {{error_type}}",
            ),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
        gauges(
            "Statements per request, by route",
            "Mean of the time range: the fifteen routes with the most. More than ten deserve a look: a page that needs "
            "fifty statements waits for fifty round trips.",
            "short",
            Query(
                f"topk(15, {mean(_STATEMENTS, per=('job', 'http_route'), over=RANGE)}) > 0", "{{job}} {{http_route}}"
            ),
            limits=ok_below(10, 50),
            links=(links.route_dashboard("__field.labels.job", "__field.labels.http_route"),),
        ),
        lines(
            "N+1 and slow statements",
            "Findings n_plus_one, slow_query and sync_db_on_loop, per window of the graph. Good: none.",
            "short",
            Query(
                f"{events(FINDINGS, _OF_SQL, per=('kind',), over=INTERVAL)} > 0",
                "{{kind}}",
            ),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
    ],
)

_POOL_ROW: Final = Row(
    "Connection pools",
    [
        lines(
            "Connections",
            "Used and idle connections of each pool, all instances together, and the most that it may open (dashed). "
            "Good: used stays clear of the maximum.",
            "short",
            Query(
                f"sum by ({_POOL}, db_client_connection_state) ({series('db_client_connection_count')})",
                f"{_OF_POOL} {{{{db_client_connection_state}}}}",
            ),
            Query(f"sum by ({_POOL}) ({series('db_client_connection_max')})", f"{_OF_POOL} maximum"),
            dashed=("/ maximum$/",),
        ),
        lines(
            "Requests that wait for a connection",
            "How many stand in the queue at each scrape. Peaks between scrapes do not show here: the waits beside "
            "this do. Good: 0.",
            "short",
            Query(
                f"sum by (instance, {_POOL}) ({series('db_client_connection_pending_requests')})",
                f"{_OF_POOL} {{{{instance}}}}",
            ),
        ),
        lines(
            "Wait for a connection: p95",
            "Time to get a connection from the pool. Good: below a millisecond. When it grows: shorter transactions "
            "first, a larger pool second.",
            "s",
            Query(quantile(0.95, "db_client_connection_wait_time_seconds", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "Use of a connection: p95",
            "From taking a connection to giving it back. Good: as long as its statements take. Much longer means that "
            "something else is done while it is held, such as a call of another service.",
            "s",
            Query(quantile(0.95, "db_client_connection_use_time_seconds", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "New connections",
            "Connections made per second. Good: near 0 once the service is warm; a steady rate means that the pool is"
            " too small for the load (overflow) or recycles too often.",
            "ops",
            Query(rate("db_client_connection_create_time_seconds_count", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "Pool timeouts",
            "Waits per second that ended in the pool's timeout. Good: none, ever.",
            "ops",
            Query(f"{rate('db_client_connection_timeouts_total', per=(_POOL,))} > 0", _OF_POOL),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
    ],
)

_FOUND: Final = Row(
    "Findings of the database",
    [
        findings_table(_OF_DATABASE, width=16, title="Findings of the database"),
        gauges(
            "Slow statements explained",
            "What became of slow statements that were to be explained by the database: explained, or why not. Empty "
            "when none was slow.",
            "short",
            Query(f"{events('fastperf_explain_total', per=('outcome',))} > 0", "{{outcome}}"),
            height=9,
            decimals=0,
            no_value="none was slow",
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-database",
    title="Fastperf / Database",
    description="Statements, connection pools, N+1 and slow queries.",
    rows=(_SUMMARY, _SQL_ROW, _POOL_ROW, _FOUND),
)
