"""Reports of a blocked event loop: a metric, a span, a finding, and an entry for the requests that it delayed."""

import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from otel_fastperf.detectors.blocking_call import BlockedLoop, detect_blocking_call
from otel_fastperf.event_loop.blocks import LoopRun
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.event_loop.stack_sampler import Sight
from otel_fastperf.findings import CallSite, Kind
from otel_fastperf.internals.frames import definition
from otel_fastperf.internals.spans import code_attributes, exemplar_of
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Block, Signals

#: maximum number of functions whose lines are remembered
_MOST_LINES: Final = 256
_MINUTE: Final = 60.0

_SPAN_NAME: Final = "event loop blocked"

_T = TypeVar("_T")


class BlockReports:
    """Reports the blocks of one loop. Must run on the loop's thread."""

    def __init__(self, settings: LoopSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._spans: deque[float] = deque(maxlen=max(1, settings.spans_per_minute))
        #: samples by line, by route and function: computing code moves between the lines of a function
        self._lines: dict[tuple[str, str, str], Counter[CallSite]] = {}

    def report(self, run: LoopRun, cause: BlockedBy, lost_seconds: float) -> None:
        """Report one block.

        Args:
            run: What the loop ran. Without samples if its code is not the cause.
            cause: Why the loop was blocked.
            lost_seconds: See `cause.lost`.
        """
        signals, owner = self._signals, self._owner(run)
        sights = [sample.sight for sample in run.samples if not sample.sight.idle]
        route = "" if owner is None else owner.route or ""
        blocked = BlockedLoop(
            seconds=run.seconds,
            cause=cause,
            call_site=self._call_site(sights, cause, owner, route),
            frames=_most_common(sight.frames for sight in sights) or (),
            route=route,
            waiting=self._waiting(owner),
            lost=lost_seconds,
            in_database=bool(_most_common(sight.in_database for sight in sights)),
        )
        exemplar = None if owner is None else exemplar_of(owner.span)
        signals.metrics.loop_blocked.child(cause.value, route).observe(run.seconds, exemplar)
        signals.delays.blocks.append(Block(run.start, run.end, owner, self._span(run, blocked, owner)))
        for finding in detect_blocking_call(blocked, self._settings):
            signals.findings.report(finding, owner)

    def _owner(self, run: LoopRun) -> RequestRecord | None:
        record = run.record
        return None if record is None or record.owner is not self._signals or record.excluded else record

    def _call_site(
        self, sights: list[Sight], cause: BlockedBy, owner: RequestRecord | None, route: str
    ) -> CallSite | None:
        """The line to change.

        Code that waits or calls into C does so at its innermost line. Code that computes moves from line to line, so
        its line is the call that a coroutine makes, because that call can be moved off the loop. Work of the framework
        on an endpoint's parameters and return value belongs to the endpoint.
        """
        if _most_common(sight.in_router for sight in sights):
            return None if owner is None else definition(owner.scope.get("endpoint"))
        innermost = _most_common(sight.frames[0] for sight in sights if sight.frames)
        if cause is not BlockedBy.CPU:
            return innermost
        return self._computing_line([sight.called for sight in sights if sight.called is not None], route) or innermost

    def _computing_line(self, sites: list[CallSite], route: str) -> CallSite | None:
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
