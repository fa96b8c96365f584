"""Shared by text and HTML reports: the headline, the names of segments, numbers with units."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from otel_fastperf.findings import Finding, Severity
from otel_fastperf.report.formatting import number, seconds, size
from otel_fastperf.report.histograms import Quantile
from otel_fastperf.report.model import Report, RouteVerdict, WorkerVerdict
from otel_fastperf.requests.time_budget import Segment

#: segments in plain words
PLAIN: Final[Mapping[str, str]] = {
    Segment.MIDDLEWARE: "middleware",
    Segment.MIDDLEWARE_AWAIT: "awaiting in middleware",
    Segment.DEPENDENCIES: "routing and dependencies",
    Segment.DEPENDENCIES_AWAIT: "awaiting in dependencies",
    Segment.HANDLER: "the endpoint itself",
    Segment.HANDLER_AWAIT: "awaiting in the endpoint",
    Segment.DB: "database",
    Segment.COMMIT: "commit and rollback",
    Segment.HTTP_CLIENT: "HTTP calls of other services",
    Segment.RPC: "remote procedure calls",
    Segment.CACHE: "cache",
    Segment.MESSAGING: "messages to a broker",
    Segment.POOL_WAIT: "waiting for a connection",
    Segment.THREADPOOL_WAIT: "waiting for a thread",
    Segment.LOOP_WAIT: "waiting for the event loop",
    Segment.GC: "garbage collection",
    Segment.SERIALIZATION: "serialization",
    Segment.SEND: "sending the response",
}

#: evidence that is a sentence: the problem in a statement's plan
REMARK: Final = "plan_remark"

#: seconds: lowest and highest bound of the buckets of latency, unless others are set
LATENCY_BOUNDS: Final = (0.005, 10.0)

#: awaited lines of one route, and the smallest share of its time
MOST_AWAITED: Final = 3
LEAST_AWAITED: Final = 0.1

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
_DAY: Final = 86400.0


def headline(report: Report) -> str:
    """`shop: 2 critical bottlenecks, 1 warning`."""
    counts = Counter(finding.severity for finding in report.findings)
    said = ", ".join(_counted(counts[severity], severity) for severity in reversed(Severity) if counts[severity])
    unexplained = sum(route.unexplained for route in report.routes)
    slow = f"{unexplained} slow route{'s' if unexplained > 1 else ''} without a known reason" if unexplained else ""
    parts = ", ".join(filter(None, (said, slow)))
    return f"{report.service or 'This service'}: {parts or 'no bottleneck was seen'}"


def _counted(count: int, severity: Severity) -> str:
    match severity:
        case Severity.CRITICAL:
            return f"{count} critical bottleneck{'s' if count > 1 else ''}"
        case Severity.WARNING:
            return f"{count} warning{'s' if count > 1 else ''}"
        case Severity.INFO:
            return f"{count} remark{'s' if count > 1 else ''}"


def subline(report: Report) -> str:
    """The process and its load: `pid 4711, measured for 2 h 5 min, 20.7 requests and 1,050 SQL statements a second`."""
    worker = report.worker
    rates = f"{rate(worker.requests_per_second)} requests and {rate(worker.statements_per_second)} SQL statements"
    process = f"{len(report.workers)} workers" if len(report.workers) > 1 else f"pid {worker.pid}"
    return f"{process}, measured for {duration(worker.uptime_seconds)}, {rates} a second"


def awaited_lines(route: RouteVerdict) -> Iterator[str]:
    """`62 % awaiting httpx AsyncClient.get at shop/prices.py:14 in price`: what takes most of a route's time.

    Without what the route's sentence says.
    """
    for line in route.awaited[:MOST_AWAITED]:
        if line.share >= LEAST_AWAITED and line.text not in route.sentence:
            yield f"{line.share:.0%} {line.text}"


def without_spans(report: Report) -> str:
    """`The calls of httpx have no spans: pip install 'otel-fastperf[httpx]'`; "" if all have."""
    if not report.uninstrumented:
        return ""
    names = ", ".join(sorted(report.uninstrumented))
    return f"The calls of {names} have no spans: {pip_install(report.uninstrumented.values())}"


def pip_install(packages: Iterable[str]) -> str:
    """`pip install 'otel-fastperf[httpx]' opentelemetry-instrumentation-grpc`, as a shell takes it."""
    return " ".join(("pip install", *map(shlex.quote, sorted(set(packages)))))


def rate(value: float) -> str:
    """`20.7`, `1,050`."""
    return number(value) if value >= 99.95 else f"{value:.1f}"  # noqa: PLR2004 - three digits


def duration(value: float) -> str:
    """A duration: `42 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if value < _MINUTE:
        return f"{value:.0f} s"
    if value < _HOUR:
        return f"{value // _MINUTE:.0f} min"
    if value < _DAY:
        return f"{value // _HOUR:.0f} h {value % _HOUR // _MINUTE:.0f} min"
    return f"{value // _DAY:.0f} d {value % _DAY // _HOUR:.0f} h"


def moment(unix: float) -> str:
    """`2025-03-01 12:00:00 UTC`."""
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{unix:g}"


def latency(value: float | None, bounds: tuple[float, float] = LATENCY_BOUNDS) -> Quantile | None:
    """A route's quantile, with a sign beyond its buckets: `< 5 ms`, `> 10 s`."""
    if value is None:
        return None
    lowest, highest = bounds
    return Quantile(value, "<" if value <= lowest else ">" if value >= highest else "")


def place(finding: Finding) -> str:
    """The route of a finding, in words."""
    return finding.where or "outside of routes"


def consequences(report: Report, finding: Finding) -> Iterator[str]:
    """`threadpool_wait in GET /price, 12 times, 1.68 s in all: A request waited …`: what follows from a finding."""
    for each in report.consequences.get(finding.fingerprint, ()):
        cost = f", {seconds(each.seconds)} in all" if each.seconds else ""
        where = f"in {place(each)}" if each.route else place(each)
        times = f"{number(each.count)} times" if each.count > 1 else "once"
        yield f"{each.kind} {where}, {times}{cost}: {each.message}"


def evidence(name: str, value: str | float | tuple[str, ...]) -> str:
    """One piece of evidence, in the unit that its name contains."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case tuple():
            return ", ".join(value)
        case _:
            return _figure(name.replace(".", "_").split("_"), value)


def _figure(parts: list[str], value: float) -> str:
    if parts[-1] == "seconds":
        return seconds(value) if value >= 0 else f"-{seconds(-value)}"
    if parts[-1] == "bytes":
        return size(value)
    if "share" in parts or "ratio" in parts:
        return f"{value:.1%}"
    return f"{value:,d}" if isinstance(value, int) else f"{value:,g}"


def gauges(worker: WorkerVerdict) -> Iterator[tuple[str, str]]:
    """Names and values of the worker's known figures."""
    yield from _loop(worker)
    if worker.threads_limit is not None:
        waiting = f", {number(worker.threads_waiting)} requests wait" if worker.threads_waiting else ""
        yield "threads", f"{number(worker.threads_borrowed or 0)} of {number(worker.threads_limit)} in use{waiting}"
    if worker.resident_bytes is not None:
        unique = f", {size(worker.unique_bytes)} unshared" if worker.unique_bytes is not None else ""
        yield "memory", f"{size(worker.resident_bytes)} resident{unique}"
    if worker.headroom_bytes is not None:
        yield "memory left", size(worker.headroom_bytes)
    if worker.gc_share is not None:
        yield "collector", f"{worker.gc_share:.1%} of the time"


def _loop(worker: WorkerVerdict) -> Iterator[tuple[str, str]]:
    if worker.loop_utilization is not None:
        yield "event loop", f"{worker.loop_utilization:.0%} busy"
    if worker.loop_lag_p50 is not None and worker.loop_lag_p99 is not None:
        yield "timers late by", f"p50 {seconds(worker.loop_lag_p50)}, p99 {seconds(worker.loop_lag_p99)}"
    if worker.blocked_seconds:
        causes = ", ".join(f"{cause} {seconds(spent)}" for cause, spent in worker.blocked_seconds.items())
        yield "loop blocked", f"{seconds(sum(worker.blocked_seconds.values()))} ({causes})"
