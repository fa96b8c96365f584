"""Which statements run, how long they take, and whether there are enough connections."""

from typing import Final

from tools.dashboards.common import FINDINGS, SERIES_TO_ROUTE, findings_table
from tools.dashboards.layout import Board
from tools.dashboards.panels import GREEN, NONE_SEEN, RED, Query, Row, gauges, lines, numbers, ok_below
from tools.dashboards.promql import (
    INTERVAL,
    RANGE,
    ROUTE_LABELS,
    ROUTE_LEGEND,
    events,
    increase,
    mean,
    quantile,
    rate,
    series,
)

_SQL: Final = "db_client_operation_duration_seconds"
_STATEMENTS: Final = "fastperf_request_db_statements"
_POOL: Final = "db_client_connection_pool_name"
_OF_POOL: Final = "{{db_client_connection_pool_name}}"
_OF_SQL: Final = 'kind=~"n_plus_one|slow_query|large_result|sync_db_on_loop"'
_OF_DATABASE: Final = 'kind=~"n_plus_one|slow_query|large_result|sync_db_on_loop|pool_wait"'
_RAISED: Final = 'error_type!=""'
_OPERATION: Final = ("db_operation_name",)

_SUMMARY: Final = Row(
    "Summary",
    [
        numbers(
            "Statements",
            "SQL statements per second of each service. Good: proportional to requests.",
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
            "Requests waiting now",
            "Requests waiting for a connection. Good: always 0.",
            "short",
            Query(f"sum by (job) ({series('db_client_connection_pending_requests')})", "{{job}}"),
            width=5,
            limits=ok_below(1, 10),
            decimals=0,
        ),
        numbers(
            "Pool timeouts",
            "Waits for a connection that ended in the pool's timeout in the time range; each one is a failed "
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
            "Statements per second by operation. Many more SELECTs than requests point to n_plus_one.",
            "ops",
            Query(rate(f"{_SQL}_count", per=_OPERATION), "{{db_operation_name}}"),
            stacked=True,
        ),
        lines(
            "Duration by operation: p95",
            "19 of 20 statements of the operation are faster. Good: stable while traffic grows.",
            "s",
            Query(quantile(0.95, _SQL, per=_OPERATION), "{{db_operation_name}}"),
        ),
        lines(
            "Time in the database, by operation",
            "Seconds per second in statements: 2 means that on average two connections are busy. An index or a "
            "cache saves most in the largest band.",
            "none",
            Query(rate(f"{_SQL}_sum", per=_OPERATION), "{{db_operation_name}}"),
            stacked=True,
        ),
        lines(
            "Failed statements",
            "Statements per second that raised an exception, by type. Good: none; a few unique violations may be "
            "normal for the app.",
            "ops",
            Query(
                f"{rate(f'{_SQL}_count', _RAISED, per=('db_operation_name', 'error_type'))} > 0",
                "{{db_operation_name}} {{error_type}}",
            ),
            bars=True,
            stacked=True,
            failing=True,
            no_value=NONE_SEEN,
        ),
        gauges(
            "Statements per request, by route",
            "Mean in the time range, for the fifteen routes with the most. Look at routes with more than ten: a "
            "page with fifty statements waits for fifty round trips.",
            "short",
            Query(f"topk(15, {mean(_STATEMENTS, per=('job', *ROUTE_LABELS), over=RANGE)}) > 0", ROUTE_LEGEND),
            limits=ok_below(10, 50),
            links=(SERIES_TO_ROUTE,),
        ),
        lines(
            "N+1 and slow statements",
            "Findings n_plus_one, slow_query and sync_db_on_loop per interval of the graph. Good: none.",
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
            "Used and idle connections of each pool, summed over instances, and the maximum (dashed). Good: used "
            "stays well below the maximum.",
            "short",
            Query(
                f"sum by ({_POOL}, db_client_connection_state) ({series('db_client_connection_count')})",
                f"{_OF_POOL} {{{{db_client_connection_state}}}}",
            ),
            Query(f"sum by ({_POOL}) ({series('db_client_connection_max')})", f"{_OF_POOL} maximum"),
            dashed=("/ maximum$/",),
        ),
        lines(
            "Requests waiting for a connection",
            "Number at each scrape. The panel beside it also shows waits between scrapes. Good: 0.",
            "short",
            Query(
                f"sum by (instance, {_POOL}) ({series('db_client_connection_pending_requests')})",
                f"{_OF_POOL} {{{{instance}}}}",
            ),
        ),
        lines(
            "Wait for a connection: p95",
            "Time to get a connection from the pool. Good: below a millisecond. When it grows, first shorten "
            "transactions, then enlarge the pool.",
            "s",
            Query(quantile(0.95, "db_client_connection_wait_time_seconds", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "Use of a connection: p95",
            "Time from the checkout of a connection to its return. Good: as long as its statements. Much longer "
            "means that code does other work meanwhile, such as a call to another service.",
            "s",
            Query(quantile(0.95, "db_client_connection_use_time_seconds", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "New connections",
            "Connections created per second. Good: near 0 once the service is warm. A steady rate means that the "
            "pool is too small for the load (overflow) or recycles too often.",
            "ops",
            Query(rate("db_client_connection_create_time_seconds_count", per=(_POOL,)), _OF_POOL),
        ),
        lines(
            "Pool timeouts",
            "Waits per second that ended in the pool's timeout. Good: always 0.",
            "ops",
            Query(f"{rate('db_client_connection_timeouts_total', per=(_POOL,))} > 0", _OF_POOL),
            bars=True,
            stacked=True,
            failing=True,
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
            "Slow statements by outcome of EXPLAIN: explained, or the reason why not. Empty if no statement was slow.",
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
