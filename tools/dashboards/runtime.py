"""The process: its event loop, threads, memory, garbage collector, CPU, descriptors and caches."""

from typing import Final

from tools.dashboards.common import CAUSES, SERIES_TO_ROUTE, SERIES_TO_TRACES
from tools.dashboards.layout import Board
from tools.dashboards.panels import NONE_SEEN, Column, Query, Row, cells, lines, numbers, ok_above, ok_below, rows
from tools.dashboards.promql import (
    ROUTE_LABELS,
    ROUTE_LEGEND,
    buckets,
    increase,
    own,
    per_worker,
    quantile,
    rate,
    series,
)

_LAG: Final = "fastperf_event_loop_lag_seconds"
_BLOCKED: Final = "fastperf_event_loop_blocked_seconds"
_WAIT: Final = "fastperf_threadpool_wait_seconds"
_GC: Final = "fastperf_gc_pause_seconds"
_EACH: Final = ("job", "instance")
_PROCESS: Final = "{{job}} {{instance}}"
#: of metrics that several workers do not sum; one process has no label `worker`
_WORKER: Final = f"{_PROCESS} {{{{worker}}}}"

_SUMMARY: Final = Row(
    "Summary",
    [
        numbers(
            "Loop lag, p99",
            "How late the event loop runs due callbacks; 99 of 100 are less late. Every request of the process "
            "waits this long at each await. Good: below 10 ms.",
            "s",
            Query(quantile(0.99, _LAG, per=("job",)), "{{job}}"),
            width=5,
            limits=ok_below(0.05, 0.25),
        ),
        numbers(
            "Loop busy",
            "Share of the last second in which the loop ran code, in the busiest process. Good: below 70 %.",
            "percentunit",
            Query(f"max by (job) ({series('fastperf_event_loop_utilization_ratio')})", "{{job}}"),
            width=5,
            limits=ok_below(0.7, 0.9),
            decimals=0,
        ),
        numbers(
            "Paused by GC",
            "Share of time in which the garbage collector paused a process, in the worst instance. Good: below 1 %.",
            "percentunit",
            Query(f"max by (job) ({per_worker(rate(f'{_GC}_sum', per=_EACH))})", "{{job}}"),
            width=5,
            limits=ok_below(0.01, 0.05),
            decimals=2,
        ),
        numbers(
            "Memory headroom",
            "The container's limit minus its working set, in the process with the least. At 0 the kernel kills it. "
            "Good: more than 20 % of the limit. Without a limit there is no data.",
            "percentunit",
            Query(
                f"min by (job) ({series('fastperf_memory_headroom_bytes')} / {series('fastperf_memory_limit_bytes')})",
                "{{job}}",
            ),
            width=5,
            limits=ok_above(0.1, 0.2),
            decimals=0,
            no_value="no limit",
        ),
        numbers(
            "Uptime",
            "Time since the start of the youngest process. If it keeps falling, something kills or restarts processes.",
            "s",
            Query(f"min by (job) (time() - ({own(series('process_start_time_seconds'))}))", "{{job}}"),
            width=4,
            sparkline=False,
            decimals=0,
        ),
    ],
)

_LOOP: Final = Row(
    "Event loop",
    [
        lines(
            "Lag: p50 and p99",
            "How late timers ran. p50 shows a loop that is always busy, p99 one that is blocked now and then. Good:"
            " p99 below 10 ms.",
            "s",
            Query(quantile(0.5, _LAG, per=_EACH), f"p50 {_PROCESS}"),
            Query(quantile(0.99, _LAG, per=_EACH), f"p99 {_PROCESS}"),
        ),
        cells(
            "Distribution of lag",
            "Every measurement of the lag, 20 per second, or 4 of an idle loop: darker means more. Good: all in the"
            " lowest rows.",
            "s",
            Query(buckets(_LAG), "{{le}}"),
            width=8,
        ),
        lines(
            "Busy",
            "Share of time in which the loop ran code or was blocked, on average of an instance's workers. At 100 %"
            " work arrives faster than it is done: add processes, or find the computation. Good: below 70 %.",
            "percentunit",
            Query(per_worker(rate("fastperf_event_loop_busy_seconds_total", per=_EACH)), _PROCESS),
            maximum=1,
            limits=ok_below(0.7, 0.9),
        ),
        lines(
            "Blocked, by cause",
            "Share of time in which the loop was blocked for longer than the threshold (0.1 s as shipped). Good: "
            f"none. {CAUSES}",
            "percentunit",
            Query(f"{rate(f'{_BLOCKED}_sum', per=('cause',))} > 0", "{{cause}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Blocked, by route",
            "The same by the route whose code blocked the loop. Click for the route or its traces. Good: none.",
            "percentunit",
            Query(f"topk(10, {rate(f'{_BLOCKED}_sum', per=('job', *ROUTE_LABELS))}) > 0", ROUTE_LEGEND),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
            links=(SERIES_TO_ROUTE, SERIES_TO_TRACES),
        ),
        lines(
            "Tasks",
            "asyncio tasks of each loop. Good: follows the number of open requests; a number that only grows is a "
            "leak of tasks.",
            "short",
            Query(series("fastperf_event_loop_tasks"), _PROCESS),
        ),
    ],
)

_THREADS: Final = Row(
    "Threads",
    [
        lines(
            "Threads in use",
            "Threads of anyio's pool in use by `def` endpoints and dependencies, and the limit (dashed). Good: well"
            " below the limit.",
            "short",
            Query(series("fastperf_threadpool_borrowed"), _PROCESS),
            Query(series("fastperf_threadpool_limit"), f"{_PROCESS} limit"),
            dashed=("/ limit$/",),
        ),
        lines(
            "Tasks waiting for a thread",
            "Number at each scrape. Good: 0. Otherwise use `async def`, or a higher limit.",
            "short",
            Query(series("fastperf_threadpool_waiting"), _PROCESS),
        ),
        lines(
            "Wait for a thread: p50 and p99",
            "Time that a `def` endpoint or dependency waited in the queue. Good: below a millisecond.",
            "s",
            Query(quantile(0.5, _WAIT, per=_EACH), f"p50 {_PROCESS}"),
            Query(quantile(0.99, _WAIT, per=_EACH), f"p99 {_PROCESS}"),
        ),
    ],
)

_MEMORY: Final = Row(
    "Memory and garbage collection",
    [
        lines(
            "Memory of the process",
            "Unique: memory that the end of the process would free. Resident: includes memory shared with other "
            "processes. Limit: the container's (dashed). Good: stable after the first hours.",
            "bytes",
            Query(series("fastperf_memory_unique_bytes"), f"unique {_WORKER}"),
            Query(own(series("process_resident_memory_bytes")), f"resident {_WORKER}"),
            Query(series("fastperf_memory_limit_bytes"), f"limit {_PROCESS}"),
            dashed=("/^limit /",),
        ),
        lines(
            "Memory headroom, now and in four hours",
            "The container's limit minus its working set, and a forecast from the last hour (dashed). The forecast "
            "begins an hour after the start, because memory always grows at first. If it reaches 0, expect a "
            "restart. Without a limit there is no data.",
            "bytes",
            Query(series("fastperf_memory_headroom_bytes"), f"now {_PROCESS}"),
            Query(
                f"clamp_min(predict_linear({series('fastperf_memory_headroom_bytes')}[1h], 4 * 3600), 0) "
                f"and on (job, instance) time() - {series('process_start_time_seconds')} > 3600",
                f"forecast {_PROCESS}",
            ),
            dashed=("/^forecast /",),
        ),
        lines(
            "Memory growth",
            "Growth of the unique memory over the last half hour, in bytes per second. Good: around 0; always above"
            " 0 is a leak.",
            "binBps",
            Query(f"clamp_min(deriv({series('fastperf_memory_unique_bytes')}[30m]), 0)", _WORKER),
        ),
        lines(
            "GC pauses: p99 by generation",
            "How long the garbage collector pauses the process. Generation 2 visits every object, so it grows with "
            "the heap. Good: below 10 ms; `gc.freeze()` after start-up helps.",
            "s",
            Query(quantile(0.99, _GC, per=("generation",)), "generation {{generation}}"),
        ),
        lines(
            "Time in GC",
            "Share of time in which the collector ran, by generation. Good: below 1 %.",
            "percentunit",
            Query(rate(f"{_GC}_sum", per=("generation",)), "generation {{generation}}"),
            stacked=True,
        ),
        lines(
            "Collections",
            "Runs of the collector per second, by generation. Frequent runs of generation 2 come from calls of "
            "`gc.collect()`, or from many long-lived objects.",
            "ops",
            Query(rate("python_gc_collections_total", per=("generation",)), "generation {{generation}}"),
        ),
    ],
)

_SYSTEM: Final = Row(
    "CPU and descriptors",
    [
        lines(
            "CPU",
            "Cores that each instance uses. A process runs Python on one core, so its workers' number is the maximum.",
            "none",
            Query(own(rate("process_cpu_seconds_total", per=_EACH)), _PROCESS),
        ),
        lines(
            "Waiting for a processor",
            "Seconds per second for which threads were ready to run and got no processor, for each worker; and the"
            " share of the periods in which the container used up its CPU limit and stood still (dashed). Good: below"
            " 10 %, and no limit that stops it.",
            "percentunit",
            Query(per_worker(rate("fastperf_cpu_wait_seconds_total", per=_EACH)), _PROCESS),
            Query(
                f"{rate('fastperf_cpu_throttled_periods_total', per=_EACH)} / "
                f"({rate('fastperf_cpu_periods_total', per=_EACH)} > 0)",
                f"limit used up {_PROCESS}",
            ),
            dashed=("/^limit used up /",),
            limits=ok_below(0.1, 0.5),
        ),
        lines(
            "File descriptors",
            "Open descriptors as a share of the limit. Connections, files and sockets need one each. Good: below "
            "half, and stable.",
            "percentunit",
            Query(own(f"{series('process_open_fds')} / {series('process_max_fds')}"), _PROCESS),
            maximum=1,
            limits=ok_below(0.7, 0.9),
        ),
        lines(
            "Middlewares: mean self time",
            "Mean time that a request spends in each middleware itself, on the way in and out. It slows every "
            "request. Good: well below a millisecond.",
            "s",
            Query(
                f"{rate('fastperf_middleware_self_time_seconds_sum', per=('middleware',))} / "
                f"({rate('fastperf_middleware_self_time_seconds_count', per=('middleware',))} > 0)",
                "{{middleware}}",
            ),
        ),
    ],
)

_HITS: Final = "fastperf_cache_hits_total"
_MISSES: Final = "fastperf_cache_misses_total"
_CACHE: Final = ("job", "cache")

_CACHES: Final = Row(
    "Caches",
    [
        rows(
            "Caches",
            "Activity of each cache in the time range. Good: mostly hits and few evictions. A cache that only "
            "misses wastes memory; one without a limit grows forever.",
            {
                f"{increase(_HITS, per=_CACHE)} / "
                f"({increase(_HITS, per=_CACHE)} + {increase(_MISSES, per=_CACHE)} > 0)": Column(
                    "hits", unit="percentunit", width=75, limits=((None, "red"), (0.2, "orange"), (0.5, "green"))
                ),
                f"{increase(_HITS, per=_CACHE)} + {increase(_MISSES, per=_CACHE)}": Column(
                    "look-ups", unit="short", bar=True, decimals=0
                ),
                increase("fastperf_cache_evictions_total", per=_CACHE): Column(
                    "evictions", unit="short", width=85, decimals=0
                ),
                f"sum by (job, cache) ({series('fastperf_cache_size')})": Column("entries", unit="short", width=70),
                f"sum by (job, cache) ({series('fastperf_cache_max_size')})": Column("maximum", unit="short", width=80),
            },
            {"cache": Column("cache", width=290), "job": Column("service", width=80)},
            order="look-ups",
            height=8,
            width=16,
        ),
        lines(
            "Hit ratio of each cache",
            "Share of look-ups that the cache answered. Good: above one half, and stable. A drop to 0 after a "
            "deploy means a cold cache or a changed key.",
            "percentunit",
            Query(
                f"{rate(_HITS, per=('cache',))} / "
                f"({rate(_HITS, per=('cache',))} + {rate(_MISSES, per=('cache',))} > 0)",
                "{{cache}}",
            ),
            maximum=1,
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-runtime",
    title="Fastperf / Runtime",
    description="Event loop, threads, memory, garbage collection, CPU, descriptors and caches of each process.",
    rows=(_SUMMARY, _LOOP, _THREADS, _MEMORY, _SYSTEM, _CACHES),
)
