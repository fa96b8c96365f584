"""Outgoing calls: for each an interval of the time budget, a duration, and an entry on the record of its request.

A call is known from its span, whoever made it: see `calls_watched`. The lines that led to it are looked up where that
may matter: if it took long, and for repeats. At its end its callers are still on the stack, since they get its result
from there.
"""

import sys
import threading
import time
from math import inf
from types import FrameType
from typing import Final

from opentelemetry.trace import NonRecordingSpan, StatusCode

from otel_fastperf.instrumentation.call_attributes import facts_of
from otel_fastperf.internals.frames import application_frames
from otel_fastperf.internals.loops import loop_around
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.internals.urls import redacted_url
from otel_fastperf.requests.calls import MOST_CALLS, Call, CallFacts, Lines, RequestCalls
from otel_fastperf.requests.record import RequestRecord, current_record
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.requests.workers import current_worker
from otel_fastperf.settings import ClientsSettings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing.span import CallSpan, EndedSpan

#: seconds from which the lines of a call are looked up, whether it is repeated or not
_LONG: Final = 0.05
#: shorter waits for a piece of a body are not noted
_SHORTEST_WAIT: Final = 0.0005
#: repeats whose lines are looked up; later ones are assumed to come from the same lines
_MOST_LOOK_UPS: Final = 100
#: look-ups per second, of all calls of the process
_LOOK_UPS_PER_SECOND: Final = 200
#: lines that are kept of a call
_MOST_LINES: Final = 6

#: this package's own spans and contrib's of SQLAlchemy, which are known as statements
_STATEMENTS: Final = frozenset({"otel_fastperf", "opentelemetry.instrumentation.sqlalchemy"})
#: attributes with a URL
_URLS: Final = ("url.full", "http.url", "http.target")
#: frames between a driver's span and SQLAlchemy, if SQLAlchemy runs the statement
_MOST_FRAMES: Final = 24


class OutgoingCalls:
    """Notes the calls of one telemetry; see `CallWatcher`."""

    def __init__(self, signals: Signals, settings: ClientsSettings, *, exemplars: bool, query_values: bool) -> None:
        """`query_values`: leave the values of query parameters on the spans of HTTP calls."""
        self._signals = signals
        self._looks_up_from = max(2, settings.n_plus_one // 2)
        self._exemplars = exemplars
        self._query_values = query_values
        self._second = 0
        self._look_ups = 0
        self._lock = threading.Lock()

    def begins(self, scope: str, is_inner: bool) -> "OutgoingCall | None":  # noqa: FBT001 - a `CallWatcher`
        """A span starts; `is_inner`: inside of that of another call, which it carries out."""
        if scope in _STATEMENTS:
            return None
        record = current_record()
        if record is not None and record.excluded:
            return None
        return OutgoingCall(self, record, scope, is_inner=is_inner)

    def note(self, call: "OutgoingCall", span: EndedSpan, ended: float) -> None:
        """Note a call that has ended."""
        try:
            failed = span.status.status_code is StatusCode.ERROR
            facts = facts_of(span.attributes or {}, span.name, call.scope, failed=failed)
            if facts is None:
                return
            if facts.system == "http":
                self._measure(facts, span, ended - call.started)
            if isinstance(span, CallSpan) and not self._query_values:
                _redact(span)
            record = call.record
            if record is None or record.ended or call.is_inner or _is_statement(facts):
                return
            call.facts = facts
            record.waited(call.started, ended, facts.cause)
            self._group(record, facts, call, ended)
        except Exception as error:  # noqa: BLE001 - costs the evidence, not the call
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count a failure of what observes calls."""
        self._signals.guard.failed("clients", error)

    def note_body(self, call: "OutgoingCall", since: float, until: float, total: float) -> None:
        """Note a wait for a piece of the response's body; all waits until then took `total` seconds."""
        try:
            record = current_record()
            if record is None or record.ended or call.facts is None or until - since < _SHORTEST_WAIT:
                return
            record.waited(since, until, call.facts.cause)
            if total >= _LONG and not call.lines and self._may_look_up():
                call.lines = application_frames(sys._getframe(1), _MOST_LINES)  # noqa: SLF001 - there is no other way
        except Exception as error:  # noqa: BLE001 - costs the evidence, not the call
            self._signals.guard.failed("clients", error)

    def note_whole_body(self, call: "OutgoingCall", began: float, seconds: float) -> None:
        """Note that a body has been read, or is not read any further; all waits for it took these seconds."""
        try:
            record, facts = current_record(), call.facts
            if record is None or record.ended or facts is None or record.calls is None or seconds < _LONG:
                return
            group = record.calls.groups.get(facts.key)
            if group is not None:
                worker = current_worker(record.loop_thread)
                ended = began + seconds
                body = Call(group, began, ended, seconds, worker, call.lines, bool(facts.error))
                self._keep(record, record.calls, body)
        except Exception as error:  # noqa: BLE001
            self._signals.guard.failed("clients", error)

    def _measure(self, facts: CallFacts, span: EndedSpan, seconds: float) -> None:
        host = facts.peer.partition(":")[0]
        context = span.get_span_context()
        exemplar = exemplar_of(NonRecordingSpan(context)) if self._exemplars and context is not None else None
        duration = self._signals.metrics.http_client_duration
        duration.child(facts.operation, host, facts.status, facts.error).observe(seconds, exemplar)

    def _group(self, record: RequestRecord, facts: CallFacts, call: "OutgoingCall", ended: float) -> None:
        started = call.started
        worker = current_worker(record.loop_thread)
        seconds = ended - started
        is_long = seconds >= _LONG
        answer = self._signals.delays.answer_seconds(started, ended) if is_long else inf
        # a request may make calls in several threads, and `+=` is atomic only by accident
        with self._lock:
            calls = record.calls = record.calls or RequestCalls()
            group = calls.group(facts)
            if group is None:
                return
            repeats = group.add(facts, started, ended, worker, answer)
        lines: Lines = ()
        if (is_long or self._looks_up_from <= repeats < _MOST_LOOK_UPS) and self._may_look_up():
            frame = sys._getframe(1)  # noqa: SLF001 - there is no other way
            lines = application_frames(frame, _MOST_LINES)
            group.add_lines(lines, seconds)
            if group.loop is None and repeats >= self._looks_up_from:
                group.loop = loop_around(frame)
            group.overhead += time.perf_counter() - ended
        if is_long:
            self._keep(record, calls, Call(group, started, ended, seconds, worker, lines, bool(facts.error)))

    def _keep(self, record: RequestRecord, calls: RequestCalls, call: Call) -> None:
        """Keep a call that took long, unless it did so because the process stood still."""
        delays, on_loop = self._signals.delays, record.loop_thread == threading.get_ident()
        if on_loop:
            delays.catch_up()
        own = call.own - delays.paused_seconds(call.started, call.ended)
        own = delays.unexplained_seconds(call.started, call.ended, own, on_loop=on_loop)
        own = min(own, delays.answer_seconds(call.started, call.ended))
        if own >= _LONG and len(calls.long) < MOST_CALLS:
            calls.long.append(call._replace(own=own, in_thread=not on_loop))

    def _may_look_up(self) -> bool:
        now = int(time.monotonic())
        if now != self._second:
            self._second, self._look_ups = now, 0
        self._look_ups += 1
        return self._look_ups <= _LOOK_UPS_PER_SECOND


class OutgoingCall:
    """A call while it runs.

    Attributes:
        record: The request that it is made for; None outside of requests, and once it has ended.
        started: By `time.perf_counter()`, which is never set back.
        facts: Set once its span has ended, if it counts for its request.
        lines: Those that wait for the body of its response.
    """

    __slots__ = ("_calls", "facts", "is_inner", "lines", "record", "scope", "started")

    def __init__(self, calls: OutgoingCalls, record: RequestRecord | None, scope: str, *, is_inner: bool) -> None:
        self._calls = calls
        self.record: RequestRecord | None = record
        self.scope: str = scope
        self.is_inner: bool = is_inner
        self.facts: CallFacts | None = None
        self.lines: Lines = ()
        self.started: float = time.perf_counter()

    def end(self, span: EndedSpan) -> None:
        """The span has ended."""
        self._calls.note(self, span, time.perf_counter())
        self.record = None


def _redact(span: CallSpan) -> None:
    """Take user, password and the values of query parameters off an instrumentation's span."""
    scope = span.instrumentation_scope
    if not scope.name.startswith("opentelemetry.instrumentation."):
        return
    attributes = span.attributes
    for name in _URLS:
        url = attributes.get(name)
        if isinstance(url, str):
            span.set_attribute(name, redacted_url(url))


def _is_statement(facts: CallFacts) -> bool:
    """Whether SQLAlchemy runs the driver whose call it is, so that it is known as a statement already."""
    return facts.cause == Cause.DB and is_inside_sqlalchemy(sys._getframe(1))  # noqa: SLF001 - there is no other way


def is_inside_sqlalchemy(frame: FrameType | None) -> bool:
    """Whether SQLAlchemy is among the next callers of `frame`."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return False
        if frame.f_globals.get("__name__", "").startswith("sqlalchemy."):
            return True
        frame = frame.f_back
    return False
