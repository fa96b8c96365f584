"""One request, or one websocket connection, from its first to its last byte: its SERVER span and its RED metrics.

`Requests` holds what all requests of an app share. `Exchange` and `Connection` hold one request or connection each:
nothing about a request is ever kept on a shared object. Span and duration end with the last byte of the response, not
with the background tasks that follow it.
"""

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, Span, SpanContext, SpanKind
from starlette.types import Message, Receive, Scope, Send

from otel_fastperf.awaiting.reporting import count_awaits, end_awaits, show_awaits
from otel_fastperf.instrumentation.incoming_trace import IncomingTrace
from otel_fastperf.instrumentation.message_spans import MessageSpans
from otel_fastperf.instrumentation.request_attributes import RequestAttributes, span_method
from otel_fastperf.instrumentation.request_metrics import Labels, RequestMetrics
from otel_fastperf.instrumentation.route_sampling import RouteSampling
from otel_fastperf.instrumentation.server_hooks import ServerHooks
from otel_fastperf.instrumentation.spent_time import MOST_MARKS, budget_of, count_up
from otel_fastperf.internals.held_traces import HeldTraces
from otel_fastperf.internals.open_labels import status_label
from otel_fastperf.internals.redaction import error_type
from otel_fastperf.internals.spans import SPAN_KEY, exemplar_of, fail_span
from otel_fastperf.requests.record import CURRENT, Middleware, Progress, RequestRecord
from otel_fastperf.requests.route import UNMATCHED, WEBSOCKET, Route
from otel_fastperf.requests.time_budget import Phase, Segment
from otel_fastperf.settings import RequestsSettings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing.held_span import HeldRequestSpan
from otel_fastperf.tracing.span import DeferredAttributes, LeanSpan
from otel_fastperf.tracing.tracer import LeanTracer, may_end_late

if TYPE_CHECKING:
    from contextvars import Token

#: what detectors, and a detector's `RequestView.scope`, find of a request that is examined later
_KEPT_OF_SCOPE: Final = (
    *("type", "http_version", "method", "scheme", "path", "query_string", "root_path", "headers", "client", "server"),
    *("endpoint", "path_params"),
)

_ATTRIBUTE_OF_SEGMENT: Final = {segment: f"fastperf.time.{segment}" for segment in Segment}

#: the media type of server-sent events
_EVENTS: Final = b"text/event-stream"

_NO_HOOKS: Final = ServerHooks()

#: valid and not sampled, so its children are dropped too
_SAMPLED_OUT: Final = SpanContext(trace_id=1, span_id=1, is_remote=False)


class SilentSpan(NonRecordingSpan):
    """The span of a request that is not recorded. A task that outlives the request is not silenced for ever by it.

    Attributes:
        is_over: The request has ended; what starts from now on has no parent.
    """

    def __init__(self, context: SpanContext) -> None:
        super().__init__(context)
        self.is_over: bool = False

    def get_span_context(self) -> SpanContext:
        """Ids that are not sampled; invalid ones once the request is over."""
        return INVALID_SPAN_CONTEXT if self.is_over else super().get_span_context()


class Requests:
    """What all requests of one app share: prepared settings, signals, middlewares."""

    def __init__(
        self,
        settings: RequestsSettings,
        signals: Signals,
        *,
        exemplars: bool = True,
        first_byte: bool = False,
        sampling: RouteSampling | None = None,
        held: HeldTraces | None = None,
        hooks: ServerHooks = _NO_HOOKS,
    ) -> None:
        """Prepare; nothing is installed.

        `sampling`: None samples all routes alike. `held`: holds what is not sampled; None drops it.
        `first_byte`: measure the time to it.
        """
        self.signals: Final = signals
        self.hooks: Final = hooks
        self.exemplars: Final = exemplars
        self.attributes: Final = RequestAttributes(settings)
        self.metrics: Final = RequestMetrics(
            signals.metrics, signals.recent, exemplars=exemplars, first_byte=first_byte
        )
        #: the app's middlewares, outermost first; set once the chain is built
        self.middlewares: tuple[Middleware, ...] = ()
        #: most spans of a connection's messages a second
        self.message_spans: Final = settings.websocket_message_spans
        self._sampling = sampling
        self._held = held
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
        tracer = self.signals.tracer if self._sampling is None else self._sampling.tracer(scope)
        # a copy: middleware may change the scope, and attributes are made from it when the request has ended
        attributes = DeferredAttributes(self.attributes.of_request, dict(scope))
        span = tracer.start_span(name, context, SpanKind.SERVER, attributes, links, start_time)
        if span.is_recording():
            return span, context
        if self._held is None or not isinstance(tracer, LeanTracer):
            return SilentSpan(span.get_span_context()), context
        held = self._held.hold()
        return tracer.hold(held, span, name, context, SpanKind.SERVER, attributes, links, start_time), context


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

    def give_up(self) -> None:
        """The request goes on unobserved."""
        self._state = _ExchangeState.ENDED
        self.record.ended = time.perf_counter()
        self.leave()
        self._guarded(self._end_span)

    def leave(self) -> None:
        """The app has returned or raised: the context is again what it was. Called last."""
        if self._state != _ExchangeState.ENDED:
            self._guarded(self._finish, None)
        self._guarded(self._count_out)
        self.record.is_over = True
        if type(self.span) is SilentSpan:
            self.span.is_over = True
        elif type(self.span) is HeldRequestSpan:
            self.span.held_trace.is_over = True
        try:
            if self._entered is not None:
                CURRENT.reset(self._entered)
            if self._attached is not None:
                otel_context.detach(self._attached)
            self._forget()
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)

    def _forget(self) -> None:
        """Keep nothing that would keep the app's objects: others may keep the record, and an exception its frames."""
        record = self.record
        record.router_error = None
        if len(record.scope) > len(_KEPT_OF_SCOPE):
            self._let_go()

    def _let_go(self) -> None:
        """Keep of the scope what is read later. The rest is the app's, such as the exit stacks of its dependencies."""
        record = self.record
        scope, _route = record.scope, record.route  # the route is known from now on
        record.scope = {key: scope[key] for key in _KEPT_OF_SCOPE if key in scope}

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)

    def _finish(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def _count_out(self) -> None:
        """It is not active any more; called again, this does nothing."""

    def _end_span(self) -> None:
        """End it when the last byte was sent; what telemetry does afterwards is not the request's."""
        if not self._join:
            self.span.end(self.started_ns + int(self.record.seconds * 1e9))


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
        return SilentSpan(_SAMPLED_OUT), None

    def _finish(self, error: BaseException | None) -> None:  # noqa: ARG002 - all are called alike
        self._state = _ExchangeState.ENDED
        self.record.ended = time.perf_counter()


class Exchange(Observed):
    """One HTTP request and its response."""

    __slots__ = ("_active", "_chunks", "_first_byte", "_headers", "_labels", "_outcome", "_received", "_sent")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        if join and self.span.is_recording():
            self.span.set_attributes(requests.attributes.of_request(scope))
        scheme = scope.get("scheme", "http")
        self._labels = (requests.attributes.method(scope), scheme if scheme in {"http", "https"} else "_OTHER")
        self._first_byte = 0.0
        #: those of the response, until it is known whether it comes in several pieces
        self._headers: Any = ()
        #: `error.type` and exception; empty for a success
        self._outcome: tuple[str, BaseException | None] = ("", None)
        self._chunks = self._received = self._sent = 0
        record = self.record
        record.method = self._labels[0]
        record.send = self.send
        record.middlewares = requests.middlewares
        #: the gauge that counts it; None once it does so no more
        self._active: Any = requests.signals.metrics.active_requests.child(*self._labels)
        self._active.inc()

    def _start_span(self, requests: Requests, scope: Scope) -> tuple[Span, Context | None]:
        return requests.start_span(scope, span_method(requests.attributes.method(scope)), self.started_ns)

    def enter(self) -> None:
        """Put span and record into the context, and the record among those in flight."""
        Observed.enter(self)
        self.requests.signals.in_flight.add(self.record)

    async def receive(self) -> Message:
        """Receive, and note how much the client sent."""
        if self._client != _Client.SENDS:
            # the app waits for the client to go away, and works on meanwhile
            message = await self._receive()
        else:
            before = self.record.enter(Phase.SEND)
            message = await self._receive()
            self.record.enter(before)
        self._guarded(self._note_received, message)
        return message

    def _note_received(self, message: Message) -> None:
        if message["type"] == "http.request":
            self._received += _body_length(message)
            if not message.get("more_body", False):
                self._client = _Client.HAS_SENT
        elif self._state < _ExchangeState.COMPLETE:
            # after the last byte every server says "disconnect"
            self._client = _Client.IS_GONE

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
            try:
                self._last_byte_sent()
            except Exception as failure:  # noqa: BLE001
                self.requests.signals.guard.failed("requests", failure)
        elif len(self.record.marks) > MOST_MARKS:
            count_up(self.record, self.requests.signals)

    def _before_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._started(message)
        elif kind == "http.response.body":
            self._chunks += 1
            if not self._sent:
                self._first_byte = time.perf_counter() - self.record.started
            self._sent += _body_length(message)
            if self._headers:
                self._look_for_events(message)
            if not message.get("more_body", False) and self._state < _ExchangeState.TRAILERS_DUE:
                self._completed()
        elif kind == "http.response.pathsend":
            # the server reads the file, and alone sees its bytes
            length = next((value for name, value in self._headers if name.lower() == b"content-length"), b"")
            self._sent += int(length) if length.isdigit() else 0
            self._first_byte = time.perf_counter() - self.record.started
            self._completed()
        elif kind == "http.response.trailers" and not message.get("more_trailers", False):
            self._completed()

    def _look_for_events(self, message: Message) -> None:
        """Note a route that sends events: before its first piece, since a client may leave before the last."""
        headers, self._headers = self._headers, ()
        if not message.get("more_body", False):
            return
        record = self.record
        if record.route and any(k.lower() == b"content-type" and v.startswith(_EVENTS) for k, v in headers):
            self.requests.signals.recent.add_event_stream(Route(self._labels[0], record.route))

    def _started(self, message: Message) -> None:
        status = _status(message)
        self._headers = message.get("headers", ())
        if (status or 0) < 500 and self._has_client_left():  # noqa: PLR2004
            self._client = _Client.IS_GONE  # and this status reaches nobody
        else:
            self.record.status = status
        self._state = _ExchangeState.TRAILERS_DUE if message.get("trailers", False) else _ExchangeState.STARTED
        if self.requests.attributes.captures_response_headers and self.span.is_recording():
            self.span.set_attributes(self.requests.attributes.of_response(message))

    def _completed(self) -> None:
        if self._state == _ExchangeState.ENDED:
            return
        self._state = _ExchangeState.COMPLETE
        if self._chunks > 1 and self._has_client_left():
            self._client = _Client.IS_GONE
        if self._join:
            # the span's owner ends it as soon as the message has passed
            self.record.ended = time.perf_counter()
            self.requests.signals.delays.catch_up()
            self._conclude(self.record.route, self._failure(None, complete=True))

    def _has_client_left(self) -> bool:
        """Whether the client went away before the message that is about to be passed.

        An app that does not ask for it is not told, and its messages vanish: uvicorn's own object is asked.
        """
        server = getattr(self._send, "__self__", None)
        return self._client == _Client.IS_GONE or getattr(server, "disconnected", False) is True

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
            return status_label(status), None
        return ("", None) if complete else ("incomplete_response", None)

    def _finish(self, error: BaseException | None) -> None:
        if self._state == _ExchangeState.ENDED:
            return
        complete, self._state = self._state == _ExchangeState.COMPLETE, _ExchangeState.ENDED
        record, signals = self.record, self.requests.signals
        record.ended = record.ended or time.perf_counter()
        # breaks the cycle through `send`: reference counts free a request at once, and the collector has nothing to do
        record.send = None
        self._count_out()
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

    def _count_out(self) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.dec()
            self.requests.signals.in_flight.remove(self.record)

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
            method = self._labels[0]
            labels = self._metric_labels(route or UNMATCHED)
            # servers send no body in answer to HEAD, whatever the app gives them
            sent = 0 if method == "HEAD" else self._sent
            self.requests.metrics.measure(record, labels, self._received, sent, self._first_byte)
            if record.awaits is not None:
                count_awaits(record, method, route or UNMATCHED, self.requests.signals)
        except Exception as failure:  # noqa: BLE001 - costs this request's telemetry
            self.requests.signals.guard.failed("requests", failure)
        finally:
            self._guarded(self._end_span)
            self._outcome = "", None

    def _metric_labels(self, route: str) -> Labels:
        method, scheme = self._labels
        return (method, route, status_label(self.record.status), self._outcome[0], scheme)

    def _conclude(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        """Make the budget, look for bottlenecks, and put all that is known on the span."""
        record, signals = self.record, self.requests.signals
        if record.awaits is not None:
            end_awaits(record, record.awaits, signals)
        record.budget = budget_of(record, signals)
        signals.findings.request_ended(record)
        if type(self.span) is HeldRequestSpan:
            self.span.decide(is_error=_is_error(failure[0]), seconds=record.seconds)
        self._annotate(route, failure)

    def _annotate(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        span, record, attributes = self.span, self.record, self.requests.attributes
        if not span.is_recording():
            return
        if route is not None:
            span.update_name(f"{span_method(self._labels[0])} {route}")
        if isinstance(span, LeanSpan) and not self._join:
            scope = record.scope
            span.settle(attributes.shared(scope, route, record.status), attributes.own(scope) | self._measured())
        else:
            span.set_attributes(self._measured())
            if route is not None:
                span.set_attribute("http.route", route)
            if record.status is not None:
                span.set_attribute("http.response.status_code", record.status)
        if record.awaits is not None:
            show_awaits(record, self.started_ns + int(record.seconds * 1e9))
        if failure[0]:
            fail_span(span, *failure, self.requests.signals.exceptions)

    def _measured(self) -> dict[str, Any]:
        """What the request has done, and where its time went."""
        record = self.record
        attributes: dict[str, Any] = {}
        if self._chunks > 1:
            attributes["fastperf.time_to_first_byte"] = self._first_byte
        if record.db_statements:
            attributes["fastperf.db.query_count"] = record.db_statements
            attributes["fastperf.db.time"] = record.db_seconds
        if record.budget is not None:
            for segment, seconds in record.budget.segments.items():
                attributes[_ATTRIBUTE_OF_SEGMENT[segment]] = seconds
        if record.findings:
            attributes["fastperf.findings"] = tuple(dict.fromkeys(record.findings))
        return attributes


class Connection(Observed):
    """One websocket connection, from handshake to close."""

    __slots__ = ("_code", "_is_counted", "_messages")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        # 1005: closed without a code, which is orderly
        self._code = 1005
        self.record.method = WEBSOCKET
        most = requests.message_spans
        self._messages = MessageSpans(requests.signals, self.record, most) if most else None
        requests.signals.metrics.websocket_active_connections.inc()
        self._is_counted = True

    def _start_span(self, requests: Requests, scope: Scope) -> tuple[Span, Context | None]:
        return requests.start_span(scope, WEBSOCKET, self.started_ns)

    async def receive(self) -> Message:
        """Receive, and note when the client closes."""
        messages = self._messages
        if messages is not None:
            self._guarded(messages.asked)
        message = await self._receive()
        self._guarded(self._note_received, message)
        return message

    def _note_received(self, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            self._client = _Client.IS_GONE
            self._code = _close_code(message, 1005)
        elif self._messages is not None and message["type"] == "websocket.receive":
            self._messages.received(message)

    async def send(self, message: Message) -> None:
        """Send, and note what becomes of the connection."""
        self._guarded(self._before_send, message)
        if self._messages is not None and message["type"] == "websocket.send":
            await self._send_traced(message, self._messages)
        else:
            await self._send(message)

    def _before_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._state = _ExchangeState.STARTED
            self.record.status = 101
        elif kind == "websocket.close":
            self._code = _close_code(message, 1000)
            if self._state == _ExchangeState.WAITING:
                self.record.status = 403
        elif kind == "websocket.http.response.start":
            self.record.status = _status(message)

    async def _send_traced(self, message: Message, messages: MessageSpans) -> None:
        span = None
        try:
            span = messages.sending(message)
        except Exception as failure:  # noqa: BLE001 - the message is sent all the same
            self.requests.signals.guard.failed("requests", failure)
        try:
            await self._send(message)
        finally:
            if span is not None:
                self._guarded(span.end)

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
        self._count_out()
        self._guarded(self._examine)
        kind, cause = self._failure(error, accepted=accepted)
        if self._messages is not None:
            self._guarded(self._messages.close, kind, cause)
        route = record.route
        if type(span) is HeldRequestSpan:
            # how long a connection lasts says nothing
            span.decide(is_error=_is_error(kind), seconds=0.0)
        if span.is_recording():
            self._annotate(accepted=accepted)
            if kind:
                fail_span(span, kind, cause, self.requests.signals.exceptions)
        duration = metrics.websocket_connection_duration.child(WEBSOCKET, route or UNMATCHED, kind)
        duration.observe(record.seconds, exemplar_of(span) if self.requests.exemplars else None)
        self._end_span()

    def _annotate(self, *, accepted: bool) -> None:
        span, record = self.span, self.record
        if record.findings:
            span.set_attribute("fastperf.findings", tuple(dict.fromkeys(record.findings)))
        if record.route is not None:
            span.update_name(f"{WEBSOCKET} {record.route}")
            span.set_attribute("http.route", record.route)
        if record.status is not None:
            span.set_attribute("http.response.status_code", record.status)
        if accepted:
            span.set_attribute("fastperf.websocket.close_code", self._code)

    def _examine(self) -> None:
        """Look for bottlenecks. A websocket repeats and lasts by nature, but what blocks the loop blocks everybody."""
        signals = self.requests.signals
        signals.delays.catch_up()
        signals.findings.request_ended(self.record)

    def _count_out(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self.requests.signals.metrics.websocket_active_connections.dec()


# An app can send what is no valid message. What becomes of it is up to the server, which may accept it.


def _body_length(message: Message) -> int:
    body = message.get("body")
    return len(body) if isinstance(body, bytes | bytearray | memoryview) else 0


def _status(message: Message) -> int | None:
    status = message.get("status")
    return status if isinstance(status, int) else None


def _close_code(message: Message, default: int) -> int:
    """Servers take None, too, for a close without a code."""
    code = message.get("code")
    return code if isinstance(code, int) else default


def _alone(error: BaseException | None) -> BaseException | None:
    """The one exception of a group of one: Starlette < 0.45 streams in a task group, which wraps what is raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_error(kind: str) -> bool:
    """Whether an `error.type` is the service's: clients leave streams as they like."""
    return bool(kind) and kind != "ClientDisconnect"


def _is_disconnect(error: BaseException | None) -> bool:
    return error is not None and type(error).__name__ == "ClientDisconnect"
