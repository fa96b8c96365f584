"""One request, or one websocket connection, from its first to its last byte: its SERVER span and its RED metrics.

`Requests` holds what all requests of an app share. `Exchange` and `Connection` hold one request or connection each:
nothing about a request is ever kept on a shared object. Span and duration end with the last byte of the response, not
with the background tasks that follow it.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind
from starlette.types import Message, Receive, Scope, Send

from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed
from otel_fastperf.instrumentation.incoming_trace import IncomingTrace
from otel_fastperf.instrumentation.request_attributes import RequestAttributes, span_method
from otel_fastperf.internals.redaction import error_type
from otel_fastperf.internals.spans import SPAN_KEY, exemplar_of, fail_span
from otel_fastperf.requests.record import CURRENT, Middleware, Progress, RequestRecord
from otel_fastperf.requests.time_budget import Cause, Interval, Phase, split, summed
from otel_fastperf.settings import RequestsSettings
from otel_fastperf.signals import Block, Signals
from otel_fastperf.tracing.span import DeferredAttributes
from otel_fastperf.tracing.tracer import may_end_late

if TYPE_CHECKING:
    from contextvars import Token

#: metric label of a request that no route served; semconv omits `http.route`, but a named value is easier to query
UNMATCHED: Final = "unmatched"

#: what detectors, and a detector's `RequestView.scope`, find of a request that is examined later
_KEPT_OF_SCOPE: Final = (
    *("type", "http_version", "method", "scheme", "path", "query_string", "root_path", "headers", "client", "server"),
    *("endpoint", "path_params"),
)

#: changes of phase after which they are summed up: more than an ordinary request has, and 2 kB
_MOST_MARKS: Final = 24

#: valid and not sampled, so its children are dropped too
_SAMPLED_OUT: Final = SpanContext(trace_id=1, span_id=1, is_remote=False)


class Requests:
    """What all requests of one app share: prepared settings, signals, middlewares."""

    def __init__(self, settings: RequestsSettings, signals: Signals, *, exemplars: bool = True) -> None:
        """Prepare; nothing is installed."""
        self.signals: Final = signals
        self.exemplars: Final = exemplars
        self.attributes: Final = RequestAttributes(settings)
        #: the app's middlewares, outermost first; set once the chain is built
        self.middlewares: tuple[Middleware, ...] = ()
        self._incoming = IncomingTrace(signals, trust=settings.trust_incoming)
        self._excluded = re.compile("|".join(settings.excluded_urls)) if settings.excluded_urls else None

    def excludes(self, scope: Scope) -> bool:
        """Whether an excluded pattern occurs in `scheme://host/path`, which is what contrib searches too."""
        if self._excluded is None:
            return False
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        return self._excluded.search(f"{scope.get('scheme', 'http')}://{host}{scope['path']}") is not None

    def start_span(self, scope: Scope, name: str, start_time: int) -> tuple[Span, Context | None]:
        """Start the SERVER span, in the trace that the propagation headers name. Also returns that trace's context."""
        context, links = self._incoming.parent(scope)
        span = self.signals.tracer.start_span(
            name,
            context,
            SpanKind.SERVER,
            # a copy: middleware may change the scope, and attributes are made from it when the request has ended
            DeferredAttributes(self.attributes.of_request, dict(scope)),
            links,
            start_time,
        )
        return span, context


class _ExchangeState:
    """How far a response has come, or a websocket connection, which has only the states without trailers."""

    WAITING: Final = 0
    #: of a connection: accepted
    STARTED: Final = 1
    #: started, and trailers will follow the body
    TRAILERS_DUE: Final = 2
    #: the last byte was passed to the server
    COMPLETE: Final = 3
    #: measured
    ENDED: Final = 4


class _Client:
    """What the client still does."""

    SENDS: Final = 0
    #: the request has been read to its end
    HAS_SENT: Final = 1
    #: it went away before it got the whole response, or closed the connection
    IS_GONE: Final = 2


class Observed:
    """One request or connection: puts its record and its span into the context, and takes them out again."""

    __slots__ = (
        "_attached",
        "_client",
        "_entered",
        "_join",
        "_parent",
        "_receive",
        "_send",
        "_state",
        "record",
        "requests",
        "span",
        "started_ns",
    )

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        # the start by the wall clock; the duration by a clock that is never set back
        self.started_ns: int = time.time_ns()
        started = time.perf_counter()
        span, context = (trace.get_current_span(), None) if join else self._start_span(requests, scope)
        self.requests: Requests = requests
        self.span: Span = span
        self.record: RequestRecord = RequestRecord(requests.signals, scope, span, started)
        self._receive = receive
        self._send = send
        self._join = join
        self._state: int = _ExchangeState.WAITING
        self._client: int = _Client.SENDS
        #: the context that the caller sent, with its baggage; None for the current one
        self._parent: Context | None = context
        self._attached: Token[Context] | None = None
        self._entered: Token[RequestRecord | None] | None = None

    def _start_span(self, requests: Requests, scope: Scope) -> tuple[Span, Context | None]:
        raise NotImplementedError

    def enter(self) -> None:
        """Put span and record into the context. Called last: what fails before leaves no trace there."""
        if not self._join:
            context = otel_context.get_current() if self._parent is None else self._parent
            self._attached = otel_context.attach(Context({**context, SPAN_KEY: self.span}))
        self._entered = CURRENT.set(self.record)

    async def receive(self) -> Message:
        """Receive the next message for the app."""
        return await self._receive()

    async def send(self, message: Message) -> None:
        """Send the app's message."""
        await self._send(message)

    def fail(self, error: BaseException) -> None:
        """The app raised `error`."""
        self._guarded(self._finish, error)

    def leave(self) -> None:
        """The app has returned or raised: the context is again what it was. Called last."""
        if self._state != _ExchangeState.ENDED:
            self._guarded(self._finish, None)
        try:
            if self._entered is not None:
                CURRENT.reset(self._entered)
            if self._attached is not None:
                otel_context.detach(self._attached)
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)

    def _finish(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def _end_span(self) -> None:
        """End it when the last byte was sent; what telemetry does afterwards is not the request's."""
        if not self._join:
            self.span.end(self.started_ns + int(self.record.seconds * 1e9))

    def _exemplar(self) -> dict[str, str] | None:
        return exemplar_of(self.span) if self.requests.exemplars else None


class Excluded(Observed):
    """A request under an excluded URL: no span, no metric, and neither for its SQL or the app's own spans."""

    __slots__ = ()

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(requests, scope, receive, send, join=False)
        self.record.excluded = True

    def _start_span(
        self,
        requests: Requests,  # noqa: ARG002 - all are called alike
        scope: Scope,  # noqa: ARG002
    ) -> tuple[Span, Context | None]:
        return NonRecordingSpan(_SAMPLED_OUT), None

    def _finish(self, error: BaseException | None) -> None:  # noqa: ARG002 - all are called alike
        self._state = _ExchangeState.ENDED


class Exchange(Observed):
    """One HTTP request and its response."""

    __slots__ = ("_active", "_chunks", "_first_byte", "_labels", "_outcome", "_received", "_sent")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        if join and self.span.is_recording():
            self.span.set_attributes(requests.attributes.of_request(scope))
        scheme = scope.get("scheme", "http")
        self._labels = (requests.attributes.method(scope), scheme if scheme in {"http", "https"} else "_OTHER")
        self._first_byte = 0.0
        #: `error.type` and exception; empty for a success
        self._outcome: tuple[str, BaseException | None] = ("", None)
        self._chunks = self._received = self._sent = 0
        self._active = requests.signals.metrics.active_requests.child(*self._labels)
        self._active.inc()
        record = self.record
        record.send = self.send
        record.middlewares = requests.middlewares

    def _start_span(self, requests: Requests, scope: Scope) -> tuple[Span, Context | None]:
        return requests.start_span(scope, span_method(requests.attributes.method(scope)), self.started_ns)

    async def receive(self) -> Message:
        """Receive, and note how much the client sent."""
        if self._client != _Client.SENDS:
            # the app waits for the client to go away, and works on meanwhile
            message = await self._receive()
        else:
            before = self.record.enter(Phase.SEND)
            message = await self._receive()
            self.record.enter(before)
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._client = _Client.HAS_SENT
        elif self._state < _ExchangeState.COMPLETE:
            # after the last byte every server says "disconnect"
            self._client = _Client.IS_GONE
        return message

    async def send(self, message: Message) -> None:
        """Send, and note how far the response has come."""
        try:
            self._before_send(message)
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)
        before = self.record.enter(Phase.SEND)
        await self._send(message)
        self.record.enter(before)
        if self._state == _ExchangeState.COMPLETE:
            self._guarded(self._last_byte_sent)
        elif len(self.record.marks) > 2 * _MOST_MARKS:
            self._guarded(self._count_up)

    def _before_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._started(message)
        elif kind == "http.response.body":
            self._chunks += 1
            self._sent += len(message.get("body", b""))
            if not message.get("more_body", False) and self._state < _ExchangeState.TRAILERS_DUE:
                self._completed()
        elif kind == "http.response.pathsend" or (
            kind == "http.response.trailers" and not message.get("more_trailers", False)
        ):
            self._completed()

    def _count_up(self) -> None:
        """Sum up the time so far, so that a response that streams for hours keeps no more than a short one."""
        record = self.record
        self.requests.signals.delays.catch_up()
        phases = record.phases
        since, until = record.counted_until, phases[-1][0]
        record.count(summed(since, until, phases, self._intervals(since, until)), until)

    def _started(self, message: Message) -> None:
        self.record.status = message["status"]
        self._state = _ExchangeState.TRAILERS_DUE if message.get("trailers", False) else _ExchangeState.STARTED
        self._first_byte = time.perf_counter() - self.record.started
        if self.requests.attributes.captures_response_headers and self.span.is_recording():
            self.span.set_attributes(self.requests.attributes.of_response(message))

    def _completed(self) -> None:
        if self._state == _ExchangeState.ENDED:
            return
        self._state = _ExchangeState.COMPLETE
        if self._join:
            # the span's owner ends it as soon as the message has passed
            self.record.ended = time.perf_counter()
            self.requests.signals.delays.catch_up()
            self._conclude(self.record.route, self._failure(None, complete=True))

    def _last_byte_sent(self) -> None:
        self.record.ended = time.perf_counter()
        if (self.record.status or 0) < 500:  # noqa: PLR2004
            self._finish(None)
        # else wait for the exception: ServerErrorMiddleware sends its 500 first and raises afterwards

    def _may_have_failed(self) -> bool:
        record = self.record
        is_error = (record.status or 0) >= 500  # noqa: PLR2004
        return is_error or record.router_error is not None or self._client == _Client.IS_GONE

    def _failure(self, error: BaseException | None, *, complete: bool) -> tuple[str, BaseException | None]:
        """`(error.type, exception)`; `("", None)` for a success."""
        record = self.record
        status = record.status or 0
        cause = _alone(error or (record.router_error if record.progress == Progress.ANSWERED else None))
        if _is_disconnect(cause) or (self._client == _Client.IS_GONE and not isinstance(cause, Exception)):
            return "ClientDisconnect", None
        if cause is None and (status >= 500 or not complete):  # noqa: PLR2004
            cause = _alone(record.router_error)
        if cause is not None:
            return error_type(cause), cause
        if status >= 500:  # noqa: PLR2004
            return str(status), None
        return ("", None) if complete else ("incomplete_response", None)

    def _finish(self, error: BaseException | None) -> None:
        if self._state == _ExchangeState.ENDED:
            return
        complete, self._state = self._state == _ExchangeState.COMPLETE, _ExchangeState.ENDED
        record, signals = self.record, self.requests.signals
        record.ended = record.ended or time.perf_counter()
        # breaks the cycle through `send`: reference counts free a request at once, and the collector has nothing to do
        record.send = None
        self._active.dec()
        try:
            if error is not None or not complete or self._may_have_failed():
                self._outcome = self._failure(error, complete=complete)
            signals.delays.catch_up()
        finally:
            if self._may_be_derived_late():
                self._guarded(self._let_go)
                signals.backlog.put(self._derive)
            else:
                self._derive()

    def _let_go(self) -> None:
        """Keep of the scope what is read later. The rest is the app's, such as the exit stacks of its dependencies."""
        record = self.record
        scope, _route = record.scope, record.route  # the route is known from now on
        record.scope = {key: scope[key] for key in _KEPT_OF_SCOPE if key in scope}

    def _may_be_derived_late(self) -> bool:
        """Whether nobody looks at the request right now, and it keeps nothing that the app wants to have freed."""
        keeps_frames = self._outcome[1] is not None
        return not (self._join or keeps_frames or self.requests.signals.findings.has_guests) and may_end_late(self.span)

    def _derive(self) -> None:
        """Work out what the recorded facts mean: budget, findings, metrics, attributes. Then end the span."""
        record = self.record
        try:
            route = record.route
            if record.budget is None:
                self._conclude(route, self._outcome)
            self._measure(route or UNMATCHED, self._outcome[0])
        except Exception as failure:  # noqa: BLE001 - costs this request's telemetry
            self.requests.signals.guard.failed("requests", failure)
        finally:
            self._guarded(self._end_span)

    def _conclude(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        """Make the budget, look for bottlenecks, and put all that is known on the span."""
        record, signals = self.record, self.requests.signals
        since, until = record.counted_until, record.ended
        record.budget = split(since, until, record.phases, self._intervals(since, until), record.counted)
        signals.findings.request_ended(record)
        self._annotate(route, failure)

    def _intervals(self, since: float, until: float) -> list[Interval]:
        """What it waited for, and what stood in its way."""
        record, delays = self.record, self.requests.signals.delays
        intervals = list(record.intervals)
        pauses = delays.pauses
        # by number: a collection that begins here appends to it, which ends an iteration with an error
        for back in range(1, len(pauses) + 1):
            start, end = pauses[-back]
            if end <= since:
                break
            if start < until:
                intervals.append((start, end, Cause.GC))
        if delays.blocks:
            intervals += self._loop_waits(blocks_that_delayed(record, delays.blocks, since, until))
        return intervals

    def _loop_waits(self, blocks: Iterable[Block]) -> Iterator[Interval]:
        """Time in which others blocked the event loop. Adds a link to each span that reports a block."""
        for block in blocks:
            if block.span is not None and self.span.is_recording():
                self.span.add_link(block.span, {"fastperf.link": "event loop blocked"})
            yield block.start, block.end, Cause.LOOP_WAIT

    def _annotate(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        span = self.span
        if not span.is_recording():
            return
        if route is not None:
            span.update_name(f"{span_method(self._labels[0])} {route}")
        span.set_attributes(self._last_attributes(route))
        if failure[0]:
            fail_span(span, *failure)

    def _last_attributes(self, route: str | None) -> dict[str, Any]:
        """What is known of a request when it has ended."""
        record = self.record
        attributes: dict[str, Any] = {}
        if route is not None:
            attributes["http.route"] = route
        if record.status is not None:
            attributes["http.response.status_code"] = record.status
        if self._chunks > 1:
            attributes["fastperf.time_to_first_byte"] = self._first_byte
        if record.db_statements:
            attributes["fastperf.db.query_count"] = record.db_statements
            attributes["fastperf.db.time"] = record.db_seconds
        if record.budget is not None:
            attributes |= {f"fastperf.time.{segment}": spent for segment, spent in record.budget.segments.items()}
        if record.findings:
            attributes["fastperf.findings"] = tuple(dict.fromkeys(record.findings))
        return attributes

    def _measure(self, route: str, kind: str) -> None:
        metrics, record = self.requests.signals.metrics, self.record
        method, scheme = self._labels
        status = "" if record.status is None else str(record.status)
        metrics.request_duration.child(method, route, status, kind, scheme).observe(record.seconds, self._exemplar())
        metrics.request_body_size.child(method, route).observe(self._received)
        metrics.response_body_size.child(method, route).observe(self._sent)
        metrics.request_db_statements.child(route).observe(record.db_statements)
        if record.budget is not None:
            for segment, seconds in record.budget.segments.items():
                metrics.request_time.child(route, segment).inc(seconds)
            for middleware, seconds in record.self_times():
                metrics.middleware_self_time.child(middleware.name).observe(seconds)


class Connection(Observed):
    """One websocket connection, from handshake to close."""

    __slots__ = ("_code",)

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        # 1005: closed without a code, which is orderly
        self._code = 1005
        requests.signals.metrics.websocket_active_connections.inc()

    def _start_span(self, requests: Requests, scope: Scope) -> tuple[Span, Context | None]:
        return requests.start_span(scope, "WS", self.started_ns)

    async def receive(self) -> Message:
        """Receive, and note when the client closes."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._client = _Client.IS_GONE
            self._code = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        """Send, and note what becomes of the connection."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._state = _ExchangeState.STARTED
            self.record.status = 101
        elif kind == "websocket.close":
            self._code = message.get("code", 1000)
            if self._state == _ExchangeState.WAITING:
                self.record.status = 403
        elif kind == "websocket.http.response.start":
            self.record.status = message["status"]
        await self._send(message)

    def _failure(self, error: BaseException | None, *, accepted: bool) -> tuple[str, BaseException | None]:
        if error is not None and type(error).__name__ != "WebSocketDisconnect":
            return error_type(error), error
        # RFC 6455, 7.4.1: 1000 and 1001 are orderly, 1005 stands for a close without a code
        if accepted and self._code not in {1000, 1001, 1005}:
            return ("ClientDisconnect" if self._client == _Client.IS_GONE else str(self._code)), None
        return "", None

    def _finish(self, error: BaseException | None) -> None:
        if self._state == _ExchangeState.ENDED:
            return
        accepted, self._state = self._state == _ExchangeState.STARTED, _ExchangeState.ENDED
        metrics, span, record = self.requests.signals.metrics, self.span, self.record
        record.ended = time.perf_counter()
        metrics.websocket_active_connections.dec()
        kind, cause = self._failure(error, accepted=accepted)
        route = record.route
        if span.is_recording():
            if route is not None:
                span.update_name(f"WS {route}")
                span.set_attribute("http.route", route)
            if record.status is not None:
                span.set_attribute("http.response.status_code", record.status)
            if accepted:
                span.set_attribute("fastperf.websocket.close_code", self._code)
            if kind:
                fail_span(span, kind, cause)
        duration = metrics.websocket_connection_duration.child(route or UNMATCHED, kind)
        duration.observe(record.seconds, self._exemplar())
        self._end_span()


def _alone(error: BaseException | None) -> BaseException | None:
    """The one exception of a group of one: Starlette < 0.45 streams in a task group, which wraps what is raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_disconnect(error: BaseException | None) -> bool:
    return error is not None and type(error).__name__ == "ClientDisconnect"
