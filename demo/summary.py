"""The telemetry of a run as text: pure functions from a capture to lines of at most 100 columns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from demo.capture import Capture
from demo.scrapes import Page, Window
from demo.sparkline import sparkline
from demo.twins import REQUESTS, STATEMENTS, measured_twins
from demo.waterfall import Trace, slowest, traces, waterfall
from otel_fastperf.report import formatting as words
from otel_fastperf.report.formatting import Paint
from otel_fastperf.report.histograms import Histogram

#: waterfalls that are shown, apart from the one with most statements
MOST_TRACES: Final = 5


def summary(capture: Capture, paint: Paint) -> str:
    """Return the whole summary."""
    window = Window([at for at, _ in capture.scrapes], [Page(page) for _, page in capture.scrapes])
    sections = (
        head(capture, window, paint),
        requests(window, paint),
        bottlenecks(capture, window, paint),
        slow_traces(capture, paint),
        runtime(capture, window, paint),
    )
    return "\n\n".join("\n".join(section) for section in sections if section)


def head(capture: Capture, window: Window, paint: Paint) -> list[str]:
    """Title with the number of requests, and whether both sides counted the same."""
    counted, sent = round(window.histogram(REQUESTS).count), sum(capture.sent.values())
    rate = counted / window.seconds
    title = f"The shop, {window.seconds:.0f} s on {capture.database}: {counted:,} requests, {rate:.0f}/s"
    if counted == sent:
        return [paint.bold(title), paint.dim("Counted by the service; its client counted the same.")]
    return [
        paint.bold(title),
        paint.red(f"Counted by the service; its client counted {sent:,}."),
    ]


_REQUEST_COLUMNS: Final = (-31, 7, 8, 8, 8, 5, -21)


def requests(window: Window, paint: Paint) -> list[str]:
    """Table of the shop's own routes, busiest first: rate, latency, statements, errors."""
    durations = window.histograms(REQUESTS, "http_request_method", "http_route")
    statements = window.histograms(STATEMENTS, "http_request_method", "http_route")
    failures = _failures(window)
    shop = {key: value for key, value in durations.items() if not key[1].startswith(("/slow/", "/fast/"))}
    rows = [
        (
            f"{method:<5}{route or '(no route)'}",
            f"{duration.count / window.seconds:.1f}/s",
            *(words.quantile(duration.quantile(share)) for share in (0.5, 0.95, 0.99)),
            _mean(statements.get((method, route))),
            failures.get((method, route), ""),
        )
        for (method, route), duration in sorted(shop.items(), key=lambda pair: -pair[1].count)
    ]
    header = ("Requests", "rate", "p50", "p95", "p99", "SQL", "errors")
    return _table(header, rows, _REQUEST_COLUMNS, paint, paint.red)


def _failures(window: Window) -> dict[tuple[str, str], str]:
    """Number and exceptions of failed requests, by method and route."""
    labels = ("http_request_method", "http_route", "error_type")
    counts = window.increase(f"{REQUESTS}_count", *labels)
    failures: dict[tuple[str, str], str] = {}
    for (method, route, error), count in counts.items():
        if error and count:
            parts = (failures.get((method, route)), f"{count:.0f} {words.TIMES} {_last_name(error)}")
            failures[method, route] = ", ".join(filter(None, parts))
    return failures


def _last_name(error: str) -> str:
    """`demo.routers.failures.WarehouseError` -> `WarehouseError`."""
    return error.rpartition(".")[2]


_TWIN_COLUMNS: Final = (-18, 8, 8, -23, -35)


def bottlenecks(capture: Capture, window: Window, paint: Paint) -> list[str]:
    """Table of the faulty endpoints beside their fixed twins: mean duration, and what else the fault makes worse."""
    rows = [
        (twins.bottleneck.name, _duration(twins.slow), _duration(twins.fast), twins.also, twins.bottleneck.fault)
        for twins in measured_twins(capture, window)
    ]
    header = ("Bottlenecks", "/slow/", "/fast/", "what else changes", "fault of /slow/")
    if not rows:
        return []
    table = _table(header, rows, _TWIN_COLUMNS, paint, paint.dim)
    return [*table, paint.dim("others: the longest time that a request to /health took meanwhile")]


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else words.seconds(seconds)


def slow_traces(capture: Capture, paint: Paint) -> list[str]:
    """Waterfalls of the slowest traces, one per route, and of the one with most statements."""
    found = traces(capture.spans)
    if not found:
        where = capture.exported_to or "nowhere"
        return [paint.bold("Slowest traces"), f"  Spans were exported to {where}; the shop keeps none."]
    shown = slowest(found, MOST_TRACES)
    busiest = max(found, key=lambda trace: trace.statements)
    lines = [paint.bold("Slowest traces") + paint.dim(f"   one per route, out of {len(found):,}")]
    for trace in shown:
        lines += _indented(trace, paint)
    if busiest not in shown:
        lines += ["", paint.bold("Most statements"), *_indented(busiest, paint)]
    return lines


def _indented(trace: Trace, paint: Paint) -> Iterator[str]:
    return (f"  {line}" for line in waterfall(trace, paint))


def runtime(capture: Capture, window: Window, paint: Paint) -> list[str]:
    """Table of event loop, threads, database, memory, and the telemetry itself."""
    rows = [*_loop(window), *_threads(window), *_database(window), *_memory(window), *_telemetry(capture, window)]
    return [f"{paint.bold(f'{name:<14}')}{quantity:<14}{value}".rstrip() for name, quantity, value in rows]


Row = tuple[str, str, str]


def _loop(window: Window) -> Iterator[Row]:
    lag = window.histogram("fastperf_event_loop_lag_seconds")
    busy = window.rates("fastperf_event_loop_busy_seconds_total")
    yield "Event loop", "lag", _spread(lag)
    if busy:
        mean = sum(busy) / len(busy)
        yield "", "busy", f"{mean:.0%} of the time  {sparkline(busy, low=0.0, high=1.0)}"


_THREAD_GAUGES: Final = ("limit", "borrowed", "waiting")


def _threads(window: Window) -> Iterator[Row]:
    limit, borrowed, waiting = (window.values(f"fastperf_threadpool_{name}") for name in _THREAD_GAUGES)
    if limit:
        most = f"{max(borrowed):.0f} in use, {max(waiting):.0f} requests waiting"
        yield "Thread pool", "threads", f"limit {limit[-1]:.0f}; highest values scraped: {most}"
        yield "", "wait", _spread(window.histogram("fastperf_threadpool_wait_seconds"))


def _database(window: Window) -> Iterator[Row]:
    statements = window.histogram("db_client_operation_duration_seconds")
    rate = statements.count / window.seconds
    yield (
        "Database",
        "statements",
        f"{_spread(statements)}  {words.number(statements.count)}, {words.number(rate)}/s",
    )
    waits = window.histograms("db_client_connection_wait_time_seconds", "db_client_connection_pool_name")
    for (pool,), wait in sorted(waits.items()):
        name = words.shorten(pool, 30)
        yield "", "pool wait", f"{_spread(wait)}  {name}"


def _memory(window: Window) -> Iterator[Row]:
    resident = window.values("process_resident_memory_bytes")
    if resident:
        change = f"{words.size(resident[0])} → {words.size(resident[-1])}"
        yield "Memory", "resident", f"{change}  {sparkline(resident)}"
    pauses = window.histograms("fastperf_gc_pause_seconds", "generation")
    if pauses:
        generation, pause = max(pauses.items())
        yield "", f"GC, gen {generation[0]}", f"{_spread(pause)}  {words.number(pause.count)} pauses"


def _telemetry(capture: Capture, window: Window) -> Iterator[Row]:
    spans = window.increase("fastperf_spans_total", "outcome")
    outcomes = ", ".join(f"{words.number(count)} {outcome}" for (outcome,), count in sorted(spans.items()) if count)
    kept = f"{len(capture.spans):,} kept in the process" if capture.spans else ""
    errors = window.increase("fastperf_telemetry_errors_total", "part")
    failed = ", ".join(f"{words.number(count)} in {part}" for (part,), count in sorted(errors.items()) if count)
    yield "Telemetry", "spans", ", ".join(filter(None, (kept, outcomes))) or "none"
    yield "", "own errors", failed or "none"


def _spread(histogram: Histogram) -> str:
    """Columns such as `p50 1.2 ms   p99 87 ms   max ≤ 250 ms`."""
    if not histogram.count:
        return "-"
    p50, p99 = (words.quantile(histogram.quantile(share)) for share in (0.5, 0.99))
    return f"p50 {p50:<8}  p99 {p99:<8}  max {words.quantile(histogram.highest):<8}"


def _mean(histogram: Histogram | None) -> str:
    return "-" if histogram is None or histogram.mean is None else f"{histogram.mean:.1f}"


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    paint: Paint,
    last: Callable[[str], str],
) -> list[str]:
    """Return a bold header and the rows; `last` paints the last column."""
    title, *body = words.columns([header, *rows], widths)
    before = sum(abs(width) + len(words.GAP) for width in widths[:-1])
    return [paint.bold(title), *(line[:before] + last(line[before:]) for line in body)]
