"""The bottlenecks that services detected."""

from typing import Final

from tools.dashboards.common import FINDINGS, SERIES_TO_ROUTE, SERIES_TO_TRACES, findings_table
from tools.dashboards.layout import Board
from tools.dashboards.panels import NONE_SEEN, Query, Row, gauges, lines, numbers, ok_below, words
from tools.dashboards.promql import INTERVAL, OF_ROUTE, REQUESTS, ROUTE_LABELS, ROUTE_LEGEND, events, increase, rate

#: kind -> meaning and remedy; docs/findings has a page for each
MEANINGS: Final = {
    "blocking_call": ("Code blocked the event loop.", "An async client, or a thread."),
    "sync_db_on_loop": ("A synchronous driver blocked the event loop.", "An async engine, or a `def` endpoint."),
    "n_plus_one": ("A statement or call ran once for each item.", "`selectinload`, one `IN`, one call for all."),
    "slow_query": ("A single statement took too long.", "An index; the finding has the plan."),
    "large_result": ("A statement returned thousands of rows.", "Fewer rows and columns; streaming."),
    "lock_wait": ("A lock was kept for long: of a row, or of the process.", "No other work while it is kept."),
    "slow_commit": ("COMMITs took long.", "One transaction instead of one for each row."),
    "pool_wait": ("All connections were in use.", "Shorter transactions; a larger pool."),
    "threadpool_wait": ("All threads were busy.", "`async def`; a higher limit."),
    "slow_middleware": (
        "A middleware took a large share of each request.",
        "Do the work once, or only where it is needed.",
    ),
    "memory_growth": (
        "Memory grows, and full collections do not free it.",
        "Limit the collection that the finding names.",
    ),
    "gc_pause": ("The garbage collector stopped the process.", "`gc.freeze()`; no `gc.collect()`."),
    "cache_inefficient": ("A cache mostly misses, or grows without limit.", "A better key, a limit, or no cache."),
    "slow_dependency": ("Another service took most of a route.", "Keep its answer; a timeout; call it beside others."),
    "serial_calls": ("Independent calls ran one after the other.", "`asyncio.gather()`."),
    "client_per_request": ("Each request made a client or an engine.", "One for the process, in the lifespan."),
}


def _meanings() -> str:
    """A Markdown table of the kinds."""
    head = "| kind | meaning | remedy |\n|---|---|---|\n"
    return head + "\n".join(f"| `{kind}` | {seen} | {remedy} |" for kind, (seen, remedy) in MEANINGS.items())


_NONE: Final = f"{rate(f'{REQUESTS}_count', per=('job',))} * 0"

_SUMMARY: Final = Row(
    "Summary",
    [
        numbers(
            "Findings",
            "Findings of each service in the time range. Good: 0.",
            "short",
            Query(f"{events(FINDINGS, per=('job',))} or {_NONE}", "{{job}}"),
            width=6,
            limits=ok_below(1, 100),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Kinds",
            "Number of kinds of findings of each service in the time range. Good: 0.",
            "short",
            Query(f"count by (job) ({events(FINDINGS, per=('job', 'kind'))} > 0) or {_NONE}", "{{job}}"),
            width=6,
            limits=ok_below(1, 5),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Affected routes",
            "Number of routes with findings in the time range. Good: 0.",
            "short",
            Query(
                f"count by (job) ({events(FINDINGS, OF_ROUTE, per=('job', *ROUTE_LABELS))} > 0) or {_NONE}",
                "{{job}}",
            ),
            width=6,
            limits=ok_below(1, 5),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Suppressed",
            "Warnings and span events that were suppressed as repeats. The counts include them.",
            "short",
            Query(f"{increase('fastperf_findings_suppressed_total', per=('job',))} or {_NONE}", "{{job}}"),
            width=6,
            decimals=0,
            instant=True,
        ),
    ],
)

_WHEN: Final = Row(
    "When and where",
    [
        lines(
            "Findings by kind",
            "Findings by kind, per interval of the graph. A kind that begins with a deploy was caused by it. Good: "
            "none.",
            "short",
            Query(f"{events(FINDINGS, per=('kind',), over=INTERVAL)} > 0", "{{kind}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
            width=12,
        ),
        lines(
            "Findings by route",
            "Findings by route. A finding without a route is outside of routes or affects many. Click for the "
            "route or its traces. Good: none.",
            "short",
            Query(f"topk(10, {events(FINDINGS, per=('job', *ROUTE_LABELS), over=INTERVAL)} > 0)", ROUTE_LEGEND),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
            width=12,
            links=(SERIES_TO_ROUTE, SERIES_TO_TRACES),
        ),
        findings_table(width=16, height=11, title="Findings by route"),
        gauges(
            "Suppressed, by kind",
            "Warnings and span events that were suppressed as repeats in the time range. Many of one kind mean one "
            "frequent cause, and one remedy for all.",
            "short",
            Query(f"{events('fastperf_findings_suppressed_total', per=('kind',))} > 0", "{{kind}}"),
            width=8,
            height=11,
            decimals=0,
            no_value=NONE_SEEN,
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-findings",
    title="Fastperf / Findings",
    description="Bottlenecks that the services detected: kinds, routes, times and remedies.",
    rows=(
        _SUMMARY,
        _WHEN,
        Row(
            "Kinds",
            [
                words(
                    "Kinds and remedies",
                    "The log and the trace of a finding have the measurements, the line of code and the remedy.",
                    _meanings(),
                    height=11,
                )
            ],
        ),
    ),
)
