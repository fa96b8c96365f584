"""The bottlenecks that services recognised by themselves."""

from typing import Final

from tools.dashboards.common import FINDINGS, SERIES_TO_ROUTE, SERIES_TO_TRACES, findings_table
from tools.dashboards.layout import Board
from tools.dashboards.panels import NONE_SEEN, Query, Row, gauges, lines, numbers, ok_below, words
from tools.dashboards.promql import INTERVAL, OF_ROUTE, REQUESTS, events, increase, rate

#: kind, what was seen, and the way out; docs/findings has a page of each
MEANINGS: Final = {
    "blocking_call": ("Code held the event loop.", "`await` the asynchronous way, or a thread."),
    "sync_db_on_loop": ("A synchronous driver held the event loop.", "An async engine, or a `def` endpoint."),
    "n_plus_one": ("A statement ran once for each row.", "`selectinload`, a join, or one `IN`."),
    "slow_query": ("One statement took long by itself.", "An index; the finding has the plan."),
    "pool_wait": ("All connections were in use.", "Shorter transactions; a larger pool."),
    "threadpool_wait": ("All threads were at work.", "`async def`; a higher limit."),
    "slow_middleware": ("A middleware took a large share.", "Do it once, or only where it is needed."),
    "memory_growth": ("Memory grows, and is not freed.", "Bound what the finding names."),
    "gc_pause": ("The garbage collector stopped the process.", "`gc.freeze()`; no `gc.collect()`."),
    "cache_inefficient": ("A cache misses, or has no limit.", "A better key; a limit; no cache."),
}


def _meanings() -> str:
    """A Markdown table of the kinds."""
    head = "| kind | what was seen | what helps |\n|---|---|---|\n"
    return head + "\n".join(f"| `{kind}` | {seen} | {remedy} |" for kind, (seen, remedy) in MEANINGS.items())


_NONE: Final = f"{rate(f'{REQUESTS}_count', per=('job',))} * 0"

_SUMMARY: Final = Row(
    "In short",
    [
        numbers(
            "Findings",
            "Times that a bottleneck was seen in the time range, by service. Good: 0.",
            "short",
            Query(f"{events(FINDINGS, per=('job',))} or {_NONE}", "{{job}}"),
            width=6,
            limits=ok_below(1, 100),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Kinds",
            "How many kinds of bottleneck each service showed in the time range. Good: 0.",
            "short",
            Query(f"count by (job) ({events(FINDINGS, per=('job', 'kind'))} > 0) or {_NONE}", "{{job}}"),
            width=6,
            limits=ok_below(1, 5),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Routes that suffer",
            "How many routes showed a bottleneck in the time range. Good: 0.",
            "short",
            Query(
                f"count by (job) ({events(FINDINGS, OF_ROUTE, per=('job', 'http_route'))} > 0) or {_NONE}",
                "{{job}}",
            ),
            width=6,
            limits=ok_below(1, 5),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Held back",
            "Warnings and span events that were held back because there were many of the same. The counts include "
            "them: nothing is lost but repetition.",
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
            "How often each kind was seen, per window of the graph. A kind that begins with a deploy came with it. "
            "Good: none.",
            "short",
            Query(f"{events(FINDINGS, per=('kind',), over=INTERVAL)} > 0", "{{kind}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
            width=12,
        ),
        lines(
            "Findings by route",
            "The same by route; without a route: outside of requests, or in many. A click leads to the route or its "
            "traces. Good: none.",
            "short",
            Query(
                f"topk(10, {events(FINDINGS, per=('job', 'http_route'), over=INTERVAL)} > 0)", "{{job}} {{http_route}}"
            ),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
            width=12,
            links=(SERIES_TO_ROUTE, SERIES_TO_TRACES),
        ),
        findings_table(width=16, height=11, title="Findings by route"),
        gauges(
            "Held back, by kind",
            "Warnings and span events that were held back in the time range. Many of one kind: the same thing happens "
            "often, and one fix ends them all.",
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
    description="Bottlenecks that the services recognised by themselves: kinds, routes, times, and what helps.",
    rows=(
        _SUMMARY,
        _WHEN,
        Row(
            "What they are",
            [
                words(
                    "What each kind is, and what helps",
                    "The log line of a finding has the figures, the line of code and the remedy; so has its trace.",
                    _meanings(),
                    height=11,
                )
            ],
        ),
    ),
)
