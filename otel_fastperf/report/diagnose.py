"""Make a report from metrics and findings: where each route's time goes, the worker's state, what to look at first.

Pure: samples of this process's metrics and its findings in, a `Report` out. The report omits what is unknown.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from otel_fastperf.findings import Finding
from otel_fastperf.report.formatting import number, seconds, size
from otel_fastperf.report.histograms import EMPTY, Histogram, Quantile, Sample, Samples
from otel_fastperf.report.labels import PLAIN
from otel_fastperf.report.model import Report, RouteVerdict, WorkerVerdict

REQUESTS: Final = "http_server_request_duration_seconds"

#: a route's sentence names segments until they explain this share of its time
_EXPLAINED: Final = 0.8
#: smaller segments are not named
_LEAST: Final = 0.01

# Thresholds from which the worker's sentence complains.
_BUSY: Final = 0.8
#: seconds, of the 99th percentile of the timers' lag
_LATE: Final = 0.05
#: share of the uptime
_BLOCKED: Final = 0.01
_COLLECTING: Final = 0.02
#: seconds, of the 99th percentile of the waits
_WAIT: Final = 0.05
#: remaining share of the memory limit
_LITTLE_ROOM: Final = 0.1

#: metric and label: what telemetry lost, failed at, or merged
_TROUBLES: Final = (
    ("fastperf_spans_total", "outcome"),
    ("fastperf_telemetry_errors_total", "part"),
    ("fastperf_metric_overflow_total", "metric"),
)
#: outcomes of spans that are not a loss
_WELL: Final = frozenset({"exported"})


def diagnose(
    samples: Iterable[Sample],
    findings: Sequence[Finding],
    *,
    service: str,
    versions: Mapping[str, str],
    now: float,
    pid: int,
    started: float,
) -> Report:
    """The report of one process, from everything measured since `started` (Unix seconds, like `now`).

    `samples` are those of `Metrics.samples()`. `findings`, worst first, keep their order.
    """
    known = Samples(samples)
    return Report(
        service=service,
        versions=dict(versions),
        made_at=now,
        worker=_worker(known, findings, pid=pid, uptime=max(now - started, 0.0)),
        routes=tuple(sorted(_routes(known, findings), key=lambda route: (-route.seconds, route.route, route.method))),
        findings=tuple(findings),
        troubles=dict(_troubles(known)),
    )


def _routes(known: Samples, findings: Sequence[Finding]) -> Iterator[RouteVerdict]:
    errors = _errors(known)
    statements = known.histograms("fastperf_request_db_statements", "http_route")
    segments = _segments(known)
    for key, duration in known.histograms(REQUESTS, "http_request_method", "http_route").items():
        method, route = key
        those = segments.get(route, {})
        yield RouteVerdict(
            method=method,
            route=route,
            requests=round(duration.count),
            errors=round(errors.get(key, 0.0)),
            seconds=duration.sum,
            p50=_value(duration.quantile(0.5)),
            p95=_value(duration.quantile(0.95)),
            p99=_value(duration.quantile(0.99)),
            statements=statements.get((route,), EMPTY).mean or 0.0,
            segments=those,
            sentence=_route_sentence(those, [finding for finding in findings if finding.route == route]),
        )


def _errors(known: Samples) -> dict[tuple[str, ...], float]:
    """Failed requests by method and route. `error_type` also marks responses that were cut short after a 200."""
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in known.samples(f"{REQUESTS}_count", {}):
        if labels.get("error_type"):
            key = labels.get("http_request_method", ""), labels.get("http_route", "")
            sums[key] = sums.get(key, 0.0) + value
    return sums


def _segments(known: Samples) -> dict[str, dict[str, float]]:
    """Seconds by route and segment, largest first."""
    sums = known.total("fastperf_request_time_seconds_total", ("http_route", "segment"), {})
    routes: dict[str, dict[str, float]] = {}
    for (route, segment), spent in sorted(sums.items(), key=lambda pair: -pair[1]):
        if spent:
            routes.setdefault(route, {})[segment] = spent
    return routes


def _value(found: Quantile | None) -> float | None:
    return None if found is None else found.value


def _route_sentence(segments: Mapping[str, float], findings: Sequence[Finding]) -> str:
    shares = ", ".join(_shares(segments))
    return "; ".join(filter(None, (shares, _worst(findings))))


def _shares(segments: Mapping[str, float]) -> Iterator[str]:
    """`62 % database`, largest first, until the rest is small."""
    total, explained = sum(segments.values()), 0.0
    for segment, spent in segments.items():
        share = spent / total
        if explained >= _EXPLAINED or share < _LEAST:
            return
        explained += share
        yield f"{share:.0%} {PLAIN.get(segment, segment)}"


def _worst(findings: Sequence[Finding]) -> str:
    """`n_plus_one at shop/orders.py:41`."""
    if not findings:
        return ""
    worst = findings[0]
    return worst.kind if worst.call_site is None else f"{worst.kind} at {str(worst.call_site).partition(' in ')[0]}"


def _worker(known: Samples, findings: Sequence[Finding], *, pid: int, uptime: float) -> WorkerVerdict:
    lag = _whole(known, "fastperf_event_loop_lag_seconds")
    collecting = _sum(known, "fastperf_gc_pause_seconds_sum")
    figures = WorkerVerdict(
        pid=pid,
        uptime_seconds=uptime,
        requests_per_second=_rate(known, f"{REQUESTS}_count", uptime),
        loop_utilization=_sum(known, "fastperf_event_loop_utilization_ratio"),
        loop_lag_p50=_value(lag.quantile(0.5)),
        loop_lag_p99=_value(lag.quantile(0.99)),
        blocked_seconds=_blocked(known),
        threads_limit=_number(known, "fastperf_threadpool_limit"),
        threads_borrowed=_number(known, "fastperf_threadpool_borrowed"),
        threads_waiting=_number(known, "fastperf_threadpool_waiting"),
        resident_bytes=_number(known, "process_resident_memory_bytes"),
        unique_bytes=_number(known, "fastperf_memory_unique_bytes"),
        headroom_bytes=_number(known, "fastperf_memory_headroom_bytes"),
        gc_share=None if collecting is None or not uptime else collecting / uptime,
        statements_per_second=_rate(known, "db_client_operation_duration_seconds_count", uptime),
    )
    return replace(figures, sentence=_worker_sentence(figures, known, findings))


def _sum(known: Samples, name: str) -> float | None:
    """The sum over all labels of a metric; None if it is absent."""
    return known.total(name, (), {}).get(())


def _number(known: Samples, name: str) -> int | None:
    """A gauge; None if it is absent or not finite."""
    value = _sum(known, name)
    return None if value is None or not math.isfinite(value) else round(value)


def _rate(known: Samples, name: str, uptime: float) -> float:
    return (_sum(known, name) or 0.0) / uptime if uptime else 0.0


def _whole(known: Samples, name: str) -> Histogram:
    """The sum over all labels of a histogram."""
    return known.histograms(name).get((), EMPTY)


def _blocked(known: Samples) -> dict[str, float]:
    """Seconds by cause, largest first."""
    sums = known.total("fastperf_event_loop_blocked_seconds_sum", ("cause",), {})
    return {cause: spent for (cause,), spent in sorted(sums.items(), key=lambda pair: -pair[1]) if spent}


def _worker_sentence(worker: WorkerVerdict, known: Samples, findings: Sequence[Finding]) -> str:
    facts = [*_loop(worker), *_threads(worker, known), *_connections(known), *_memory(worker, known), *_gc(worker)]
    wrong = [fact.words for fact in facts if fact.wrong]
    right = ", ".join(fact.words for fact in facts if not fact.wrong)
    found = _worst([finding for finding in findings if not finding.route])
    found = f"found outside of requests: {found}" if found else ""
    if not wrong and not found:
        wrong = ["nothing stands out"]
    sentence = "; ".join(filter(None, (*wrong, found, right)))
    return sentence[:1].upper() + sentence[1:]


class _Fact(NamedTuple):
    """One fact about the worker."""

    wrong: bool
    words: str


def _loop(worker: WorkerVerdict) -> Iterator[_Fact]:
    blocked = sum(worker.blocked_seconds.values())
    if blocked:
        causes = ", ".join(f"{cause} {seconds(spent)}" for cause, spent in worker.blocked_seconds.items())
        wrong = blocked >= _BLOCKED * worker.uptime_seconds
        yield _Fact(wrong, f"the event loop was blocked for {seconds(blocked)} ({causes})")
    busy, late = worker.loop_utilization, worker.loop_lag_p99
    if busy is not None:
        yield _Fact(busy >= _BUSY, f"the event loop is {busy:.0%} busy")
    if late is not None and late >= _LATE:
        yield _Fact(wrong=True, words=f"1 timer in 100 is at least {seconds(late)} late")


def _threads(worker: WorkerVerdict, known: Samples) -> Iterator[_Fact]:
    limit, borrowed, waiting = worker.threads_limit, worker.threads_borrowed, worker.threads_waiting
    if limit is not None and borrowed is not None:
        yield _Fact(bool(waiting), f"{borrowed} of {limit} threads in use")
    if waiting:
        yield _Fact(wrong=True, words=f"{_requests(waiting)} for a thread")
    yield from _waits(_whole(known, "fastperf_threadpool_wait_seconds"), "thread")


def _connections(known: Samples) -> Iterator[_Fact]:
    pending = _number(known, "db_client_connection_pending_requests")
    if pending:
        yield _Fact(wrong=True, words=f"{_requests(pending)} for a connection")
    timeouts = _number(known, "db_client_connection_timeouts_total")
    if timeouts:
        yield _Fact(wrong=True, words=f"{number(timeouts)} waits for a connection timed out")
    yield from _waits(_whole(known, "db_client_connection_wait_time_seconds"), "connection")


def _requests(waiting: int) -> str:
    return f"{waiting} requests wait" if waiting > 1 else "1 request waits"


def _waits(waits: Histogram, what: str) -> Iterator[_Fact]:
    long = waits.quantile(0.99)
    if long is not None and long.value >= _WAIT:
        yield _Fact(wrong=True, words=f"1 wait in 100 for a {what} takes at least {seconds(long.value)}")


def _memory(worker: WorkerVerdict, known: Samples) -> Iterator[_Fact]:
    room, limit = worker.headroom_bytes, _number(known, "fastperf_memory_limit_bytes")
    if room is not None and limit:
        little = room < _LITTLE_ROOM * limit
        yield _Fact(little, f"{size(room)} of {size(limit)} memory left")
    if worker.resident_bytes is not None:
        yield _Fact(wrong=False, words=f"{size(worker.resident_bytes)} resident")


def _gc(worker: WorkerVerdict) -> Iterator[_Fact]:
    share = worker.gc_share
    if share is not None and share >= _COLLECTING:
        yield _Fact(wrong=True, words=f"the garbage collector stops the process for {share:.1%} of the time")


def _troubles(known: Samples) -> Iterator[tuple[str, float]]:
    """Losses and failures, with their counts."""
    for name, label in _TROUBLES:
        for (what,), count in sorted(known.total(name, (label,), {}).items()):
            if count and what not in _WELL:
                yield what, count
