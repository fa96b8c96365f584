"""Make a report from metrics and findings: where each route's time goes, the worker's state, what to look at first.

Pure: samples of this process's metrics and its findings in, a `Report` out. The report omits what is unknown.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from otel_fastperf.findings import Finding
from otel_fastperf.report.advice import advice, culprit, named
from otel_fastperf.report.consequences import told
from otel_fastperf.report.formatting import number, seconds, size
from otel_fastperf.report.histograms import EMPTY, Histogram, Quantile, Sample, Samples
from otel_fastperf.report.labels import PLAIN
from otel_fastperf.report.model import AwaitedLine, Report, RouteVerdict, WorkerVerdict
from otel_fastperf.report.rows import NOTHING, together
from otel_fastperf.report.savings import RouteSegments, Saving, savings
from otel_fastperf.requests.awaits import Awaited
from otel_fastperf.requests.recent import Segments
from otel_fastperf.requests.route import Route

#: seconds by what was awaited, most first, by method and route
RouteAwaits: TypeAlias = Mapping[tuple[str, str], Mapping[Awaited, float]]

REQUESTS: Final = "http_server_request_duration_seconds"
_ROUTE: Final = ("http_request_method", "http_route")

#: a route's sentence names segments until they explain this share of its time
_EXPLAINED: Final = 0.8
#: smaller segments are not named
_LEAST: Final = 0.01

#: share of a route's time from which one awaited line explains it
_MUCH: Final = 0.3
#: requests from which a route's 95th percentile means something
_FEW: Final = 3

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


class KnownOfRoutes(NamedTuple):
    """What no metric has.

    Attributes:
        awaits: Seconds by what slow requests awaited, by method and route.
        recent: Time budgets of each route's last requests.
        slow: Seconds of a 95th percentile from which a route is slow.
        uninstrumented: Client libraries whose calls have no spans, and what pip has to install.
        event_streams: Routes that send events for as long as their clients listen: they last, and are not slow.
    """

    awaits: RouteAwaits = MappingProxyType({})
    recent: Mapping[Route, Sequence[Segments]] = MappingProxyType({})
    slow: float = 0.5
    uninstrumented: Mapping[str, str] = MappingProxyType({})
    event_streams: Collection[Route] = ()


class WorkerProcess(NamedTuple):
    """One worker of several.

    Attributes:
        number: Its label `worker`.
        pid: Its process id.
        started: Since when it measures, in Unix seconds.
        silent: Seconds since it has told this, if it does not answer now; None if it does.
        samples: Its own metrics.
        findings: Its own findings.
    """

    number: int
    pid: int
    started: float
    silent: float | None
    samples: Sequence[Sample]
    findings: Sequence[Finding]


def diagnose(  # noqa: PLR0913 - all but three by name
    samples: Iterable[Sample],
    findings: Sequence[Finding],
    known_of_routes: KnownOfRoutes | None = None,
    *,
    service: str,
    versions: Mapping[str, str],
    now: float,
    pid: int,
    started: float,
    workers: Sequence[WorkerProcess] = (),
) -> Report:
    """The report of a process or of all `workers`, from everything since `started` (Unix seconds, like `now`).

    `samples` are those of `Metrics.samples()`, or the sum over all workers. The report has the findings that save most
    first.
    """
    kept = known_of_routes or KnownOfRoutes()
    known, uptime = Samples(samples), max(now - started, 0.0)
    segments = _segments(known)
    own = told(findings)
    saved = savings(known, own.findings, segments, own.consequences)
    findings = [saving.finding for saving in saved]
    total = sum(sum(those.values()) for those in segments.values())
    routes = _routes(known, segments, saved, kept)
    rows = tuple(_row(process, now) for process in workers)
    whole = _worker(known, findings, pid=pid, uptime=uptime)
    return Report(
        service=service,
        versions=dict(versions),
        made_at=now,
        worker=together(whole, rows) if rows else whole,
        routes=tuple(sorted(routes, key=lambda route: (-route.seconds, route.route, route.method))),
        findings=tuple(findings),
        consequences=own.consequences,
        advice=advice(saved, kept.recent, total=total, uptime=uptime),
        savings={saving.finding.fingerprint: saving.seconds for saving in saved if saving.seconds},
        uninstrumented=dict(kept.uninstrumented),
        troubles=dict(_troubles(known)),
        workers=rows,
    )


def _row(process: WorkerProcess, now: float) -> WorkerVerdict:
    uptime = max(now - process.started, 0.0)
    verdict = _worker(Samples(process.samples), process.findings, pid=process.pid, uptime=uptime)
    return replace(verdict, number=process.number, silent_seconds=process.silent)


def _routes(
    known: Samples, segments: RouteSegments, saved: Sequence[Saving], kept: KnownOfRoutes
) -> Iterator[RouteVerdict]:
    errors = _errors(known)
    statements = known.histograms("fastperf_request_db_statements", *_ROUTE)
    durations = known.histograms(REQUESTS, *_ROUTE)
    starved = _starved(known, sum(duration.sum for duration in durations.values()))
    for key, duration in durations.items():
        method, route = key
        those = segments.get(key, {})
        awaited = tuple(_awaited(kept.awaits.get((method, route), {}), duration.sum))
        p95 = _value(duration.quantile(0.95))
        lasts = Route(method, route) in kept.event_streams
        is_slow = p95 is not None and p95 >= kept.slow and duration.count >= _FEW and not lasts
        found = [saving.finding for saving in saved if (saving.finding.method, saving.finding.route) == key]
        because = None if found else culprit(saved, key, duration.sum)
        yield RouteVerdict(
            method=method,
            route=route,
            requests=round(duration.count),
            errors=round(errors.get(key, 0.0)),
            seconds=duration.sum,
            p50=_value(duration.quantile(0.5)),
            p95=p95,
            p99=_value(duration.quantile(0.99)),
            latency_bounds=(duration.bounds[0], duration.bounds[-2]),
            statements=statements.get(key, EMPTY).mean or 0.0,
            segments=those,
            awaited=awaited,
            slow=is_slow,
            unexplained=is_slow and not found and because is None and not starved,
            sentence=_route_sentence(those, awaited, found, because, slow=is_slow, starved=starved),
        )


def _starved(known: Samples, total: float) -> float:
    """Seconds for which the event loop got no processor, if that may explain why routes are slow; else 0."""
    starved = _blocked(known).get("descheduled", 0.0)
    return starved if starved >= _MUCH * total else 0.0


def _awaited(seconds: Mapping[Awaited, float], total: float) -> Iterator[AwaitedLine]:
    for awaited, spent in seconds.items():
        if total and spent >= _LEAST * total:
            yield AwaitedLine(
                text=str(awaited),
                seconds=spent,
                share=min(spent / total, 1.0),
                library=awaited.library,
                function=awaited.function,
                computing=awaited.computing,
                call_site=awaited.call_site,
            )


def _errors(known: Samples) -> dict[tuple[str, ...], float]:
    """Failed requests by method and route. `error_type` also marks responses that were cut short after a 200.

    A client that goes away is no failure of the service.
    """
    sums: dict[tuple[str, ...], float] = {}
    for labels, value in known.samples(f"{REQUESTS}_count", {}):
        if labels.get("error_type") not in {None, "", "ClientDisconnect"}:
            key = tuple(labels.get(label, "") for label in _ROUTE)
            sums[key] = sums.get(key, 0.0) + value
    return sums


def _segments(known: Samples) -> dict[tuple[str, ...], dict[str, float]]:
    """Seconds by method, route and segment, largest first."""
    sums = known.total("fastperf_request_time_seconds_total", (*_ROUTE, "segment"), {})
    routes: dict[tuple[str, ...], dict[str, float]] = {}
    for (*route, segment), spent in sorted(sums.items(), key=lambda pair: -pair[1]):
        if spent:
            routes.setdefault(tuple(route), {})[segment] = spent
    return routes


def _value(found: Quantile | None) -> float | None:
    return None if found is None else found.value


def _route_sentence(
    segments: Mapping[str, float],
    awaited: Sequence[AwaitedLine],
    findings: Sequence[Finding],
    because: Finding | None,
    *,
    slow: bool,
    starved: float,
) -> str:
    shares = ", ".join(_shares(segments))
    if findings:
        return "; ".join(filter(None, (shares, _worst(findings))))
    if because is not None:
        return f"{shares}; because of {named(because)}"
    if not slow:
        return shares
    if starved:
        return f"{shares}; slow because the process got no processor for {seconds(starved)}"
    most = next((f"{line.share:.0%} {line.text}" for line in awaited if line.share >= _MUCH), shares)
    return f"slow, and none of the known reasons: {most}"


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
    resident = _number(known, "fastperf_memory_resident_bytes")
    if resident is None:
        # not read together with the process's own: of this moment, and the only one that there is
        resident = _number(known, "process_resident_memory_bytes")
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
        resident_bytes=resident,
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
    found = f"found outside of routes: {found}" if found else ""
    if not wrong and not found:
        wrong = [NOTHING]
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
