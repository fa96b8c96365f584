"""Reports of a blocked event loop: a metric, a span, a finding, and an entry for the requests that it delayed."""

import linecache
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, TypeVar
from weakref import ref

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from otel_fastperf.detectors.blocking_call import BlockedLoop, detect_blocking_call
from otel_fastperf.event_loop.blocks import LoopRun
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.event_loop.stack_sampler import Coroutine, LoopWork, Sight
from otel_fastperf.findings import CallSite, Finding, Kind
from otel_fastperf.internals.frames import definition, may_be_application
from otel_fastperf.internals.spans import code_attributes, exemplar_of
from otel_fastperf.requests.record import RequestRecord, route_of
from otel_fastperf.requests.route import Route
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Block, Signals

#: maximum number of functions whose lines are remembered; of shared lines whose routes are, and of their routes
_MOST_LINES: Final = 256
_MOST_SHARED: Final = 64
_MOST_ROUTES: Final = 20
_MINUTE: Final = 60.0
#: times within a minute that a process gets no processor for a second, from which it has too few
_OFTEN: Final = 3
_LONG: Final = 1.0

_SPAN_NAME: Final = "event loop blocked"

_T = TypeVar("_T")


class BlockReports:
    """Reports the blocks of one loop. Must run on the loop's thread."""

    def __init__(self, settings: LoopSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._spans: deque[float] = deque(maxlen=max(1, settings.spans_per_minute))
        #: samples by line, by route and function: computing code moves between the lines of a function
        self._lines: dict[tuple[Route, str, str], Counter[CallSite]] = {}
        #: routes by a coroutine that is no endpoint, and the line in it that blocked them
        self._routes: dict[tuple[str, str, CallSite], list[Route]] = {}
        #: route and function of blocks without a line of the application
        self._seen: set[tuple[Route, str]] = set()
        #: ends of the latest long blocks without a processor, by `time.perf_counter()`
        self._starved: deque[float] = deque(maxlen=_OFTEN)

    def report(self, run: LoopRun, cause: BlockedBy, lost_seconds: float, *, by_others: bool) -> None:
        """Report one block.

        Args:
            run: What the loop ran. Without samples if its code is not the cause.
            cause: Why the loop was blocked.
            lost_seconds: See `cause.lost`.
            by_others: See `cause.by_other_threads`.
        """
        signals, owner = self._signals, self._owner(run)
        sights = [sample.sight for sample in run.samples if not sample.sight.idle]
        route = route_of(owner)
        work = _most_common(sight.work for sight in sights) or LoopWork.OTHER
        innermost = _most_common(sight.frames[0] for sight in sights if sight.frames)
        site = self._call_site(sights, cause, work, owner, route)
        coroutine = _most_common(sight.coroutine for sight in sights)
        blocked = BlockedLoop(
            seconds=run.seconds,
            cause=cause,
            call_site=site,
            frames=_most_common(sight.frames for sight in sights) or (),
            route=route.template,
            method=route.method,
            waiting=self._waiting(owner),
            lost=lost_seconds,
            work=work,
            coroutine=coroutine,
            library=_most_common(sight.library for sight in sights if sight.library) or "",
            code="" if innermost is None else linecache.getline(innermost.file, innermost.line).strip(),
            by_others=by_others,
            repeated=site is None and (self._is_often_starved(run, cause) or self._is_repeated(cause, route, sights)),
            on_rows=_is_on_rows(work, cause, owner, site),
        )
        exemplar = None if owner is None else exemplar_of(owner.span)
        signals.metrics.loop_blocked.child(cause.value, *route).observe(run.seconds, exemplar)
        caused_by = None if owner is None else ref(owner)
        signals.delays.blocks.append(Block(run.start, run.end, caused_by, self._span(run, blocked, owner)))
        for finding in detect_blocking_call(blocked, self._settings):
            self._report(finding, blocked.coroutine, owner)

    def _report(self, finding: Finding, coroutine: Coroutine | None, owner: RequestRecord | None) -> None:
        """Report a block by code that several routes share, such as a dependency, under the first of them only."""
        if coroutine is None or coroutine.caller == "endpoint" or finding.call_site is None:
            self._signals.findings.report(finding, owner)
            return
        key = (coroutine.site.file, coroutine.site.function, finding.call_site)
        if len(self._routes) >= _MOST_SHARED and key not in self._routes:
            self._signals.findings.report(finding, owner)
            return
        routes, route = self._routes.setdefault(key, []), Route(finding.method, finding.route)
        if route not in routes and len(routes) < _MOST_ROUTES:
            routes.append(route)
        shared = replace(finding, method=routes[0].method, route=routes[0].template)
        self._signals.findings.report(shared, owner)
        evidence = {"routes": tuple(map(str, routes))}
        self._signals.findings.log.annotate(lambda found: found.fingerprint == shared.fingerprint, evidence)

    def _is_repeated(self, cause: BlockedBy, route: Route, sights: list[Sight]) -> bool:
        """Whether the same code of a library has blocked the loop before: what a first request prepares does not."""
        if cause not in {BlockedBy.CPU, BlockedBy.GIL_HELD} or len(self._seen) >= _MOST_SHARED:
            return False
        key = (route, _most_common(sight.library for sight in sights) or "")
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _is_often_starved(self, run: LoopRun, cause: BlockedBy) -> bool:
        if cause is not BlockedBy.DESCHEDULED or run.seconds < _LONG:
            return False
        self._starved.append(run.end)
        return len(self._starved) == _OFTEN and run.end - self._starved[0] <= _MINUTE

    def _owner(self, run: LoopRun) -> RequestRecord | None:
        record = run.record
        return None if record is None or record.owner is not self._signals or record.excluded else record

    def _call_site(
        self, sights: list[Sight], cause: BlockedBy, work: LoopWork, owner: RequestRecord | None, route: Route
    ) -> CallSite | None:
        """The line to change.

        Code that waits or calls into C does so at its innermost line. Code that computes moves from line to line, so
        its line is the call that a coroutine makes, because that call can be moved off the loop. Work of the framework
        on an endpoint's parameters and return value belongs to the endpoint.
        """
        if work in {LoopWork.SERIALIZING, LoopWork.READING}:
            endpoint = None if owner is None else definition(owner.scope.get("endpoint"))
            return endpoint if endpoint is not None and may_be_application(endpoint.file) else None
        innermost = _most_common(sight.frames[0] for sight in sights if sight.frames)
        if cause is not BlockedBy.CPU:
            return innermost
        return self._computing_line([sight.called for sight in sights if sight.called is not None], route) or innermost

    def _computing_line(self, sites: list[CallSite], route: Route) -> CallSite | None:
        where = _most_common((site.file, site.function) for site in sites)
        if where is None:
            return None
        lines = Counter(site for site in sites if (site.file, site.function) == where)
        if len(self._lines) < _MOST_LINES:
            known = self._lines.setdefault((route, *where), Counter())
            known.update(lines)
            lines = known
        return lines.most_common(1)[0][0]

    def _waiting(self, owner: RequestRecord | None) -> int:
        """Number of requests in flight without the owner, if that still runs."""
        is_one = owner is not None and not owner.ended and owner.scope["type"] == "http"
        return max(0, round(self._signals.metrics.active_requests.total()) - is_one)

    def _span(self, run: LoopRun, blocked: BlockedLoop, owner: RequestRecord | None) -> SpanContext | None:
        """Make the span of the block, unless the limit per minute is reached.

        Its parent is the request's span, which may have ended: a background task stays in the trace of its request.

        Returns:
            The span that delayed requests link to: this one, or else the owner's. None if it is not sampled.
        """
        parent = Context() if owner is None else trace.set_span_in_context(owner.span, Context())
        reported = None if owner is None else owner.span.get_span_context()
        if self._may_have_span():
            now, wall = time.perf_counter(), time.time_ns()
            span = self._signals.tracer.start_span(
                _SPAN_NAME,
                context=parent,
                attributes=_attributes(blocked),
                start_time=wall - _nanoseconds(now - run.start),
            )
            span.end(wall - _nanoseconds(now - run.end))
            reported = span.get_span_context()
        return reported if reported is not None and reported.trace_flags.sampled else None

    def _may_have_span(self) -> bool:
        now = time.monotonic()
        full = len(self._spans) == self._spans.maxlen and now - self._spans[0] < _MINUTE
        if full or not self._settings.spans_per_minute:
            self._signals.metrics.findings_suppressed.child(Kind.BLOCKING_CALL.value).inc()
            return False
        self._spans.append(now)
        return True


def _is_on_rows(work: LoopWork, cause: BlockedBy, owner: RequestRecord | None, site: CallSite | None) -> bool:
    """True if the code made or used objects of a large result, or serialized them."""
    if owner is None or cause not in {BlockedBy.CPU, BlockedBy.GIL_HELD}:
        return False
    return owner.works_on_rows(None if work is LoopWork.SERIALIZING else site)


def _attributes(blocked: BlockedLoop) -> dict[str, Any]:
    return {
        "fastperf.blocked.cause": blocked.cause.value,
        "fastperf.blocked.seconds": blocked.seconds,
        "fastperf.blocked.frames": tuple(map(str, blocked.frames)),
        "fastperf.blocked.waiting_requests": blocked.waiting,
        **code_attributes(blocked.call_site),
    }


def _most_common(values: Iterable[_T]) -> _T | None:
    """The most common value, and of several the first; None if there are no values."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
