"""One SERVER span and the RED metrics for every request and websocket connection.

`Requests` holds what is the same for all requests; `_Exchange` and `_Connection` hold one request or connection each,
nothing about a request is ever kept on a shared object. The span and the duration end with the last byte of the
response, not with the background tasks after it.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, MutableMapping
from typing import Any, Final, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind
from opentelemetry.util.http import SanitizeValue, normalise_request_header_name, normalise_response_header_name

from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed
from otel_fastperf.internals.redaction import error_type
from otel_fastperf.internals.spans import exemplar_of, fail_span
from otel_fastperf.requests.record import CURRENT, Middleware, RequestRecord
from otel_fastperf.requests.time_budget import Cause, Interval, Phase, split
from otel_fastperf.settings import RequestsSettings
from otel_fastperf.signals import Block, Signals

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
#: called when requests arrive on a new event loop; the request waits for what it returns, if anything
NewLoop = Callable[[], Awaitable[object] | None]

#: the metric label of a request that no route served; semconv leaves `http.route` out, a named value is easier to query
UNMATCHED: Final = "unmatched"

#: propagation headers over this many bytes in sum are not read: W3C allows 512 of tracestate and 8,192 of baggage
_PROPAGATION_BUDGET: Final = 16_384

#: query keys whose values are signatures or keys to storage: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
_ALWAYS_REDACTED: Final = frozenset(
    {
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "X-Goog-Signature",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
    }
)

#: propagators of these headers read no others, as some do that take a header for each baggage entry
_W3C_FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage"})

_DEFAULT_PORTS: Final = {"https": 443, "wss": 443}

#: valid, not sampled: children are dropped too
_SAMPLED_OUT: Final = SpanContext(trace_id=1, span_id=1, is_remote=False)


class _Headers(Getter[dict[str, list[str]]]):
    def get(self, carrier: dict[str, list[str]], key: str) -> list[str] | None:
        values = carrier.get(key.lower())
        # baggage may be split over several headers (W3C); the API's propagator reads only the first
        return [",".join(values)] if values and key == "baggage" else values

    def keys(self, carrier: dict[str, list[str]]) -> list[str]:
        return list(carrier)


_GETTER: Final = _Headers()


class _Propagation(NamedTuple):
    """The propagator that is set, and which headers to read for it."""

    propagator: TextMapPropagator
    #: in lower case
    fields: frozenset[str]
    #: names of all headers that a span is made from; None for every header
    wanted: frozenset[bytes] | None


class Requests:
    """What all requests of one app share: settings made ready, signals, labels. Nothing of any request stays here."""

    def __init__(self, settings: RequestsSettings, signals: Signals, *, exemplars: bool = True) -> None:
        """Prepare; nothing is installed."""
        self.signals = signals
        #: the app's middlewares, from the outside in; set once the chain is built
        self.middlewares: tuple[Middleware, ...] = ()
        self.exemplars = exemplars
        self._methods = frozenset(settings.known_methods)
        self._trust = settings.trust_incoming
        self._query_values = settings.capture_query_values
        self._excluded = re.compile("|".join(settings.excluded_urls)) if settings.excluded_urls else None
        self._sanitize = SanitizeValue(list(settings.sanitize_headers))
        self._request_headers = list(settings.capture_request_headers)
        self.response_headers = list(settings.capture_response_headers)
        self._propagation: _Propagation | None = None

    def method(self, scope: Scope) -> str:
        """The method as attribute and label: `_OTHER` for what is not in the known list. A handshake is a GET."""
        method: str = scope.get("method", "GET")
        return method if method in self._methods else "_OTHER"

    def excludes(self, scope: Scope) -> bool:
        """Is the URL under one of the excluded patterns? Matched as contrib does: search in `scheme://host/path`."""
        if self._excluded is None:
            return False
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        return self._excluded.search(f"{scope.get('scheme', 'http')}://{host}{scope['path']}") is not None

    def start_span(self, scope: Scope, name: str, start_time: int) -> Span:
        """Start the SERVER span, in the trace that the propagation headers name."""
        propagation, propagator = self._propagation, propagate.get_global_textmap()
        if propagation is None or propagation.propagator is not propagator:
            propagation = self._propagation = self._propagation_of(propagator)
        headers = _decoded(scope["headers"], propagation.wanted)
        context, links = self._parent(headers, propagation)
        return self.signals.tracer.start_span(
            name,
            context=context,
            kind=SpanKind.SERVER,
            attributes=self.attributes(scope, headers),
            links=links,
            start_time=start_time,
        )

    def attributes(self, scope: Scope, headers: dict[str, list[str]]) -> dict[str, Any]:
        """What is known of a request when it arrives, as stable semantic conventions have it."""
        attributes: dict[str, Any] = {
            "http.request.method": self.method(scope),
            "url.scheme": scope.get("scheme", "http"),
            "url.path": scope["path"],
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
        if attributes["http.request.method"] == "_OTHER":
            attributes["http.request.method_original"] = scope["method"]
        if scope["type"] == "websocket":
            attributes["network.protocol.name"] = "websocket"
        query: bytes = scope.get("query_string", b"")
        if query:
            attributes["url.query"] = _shown_query(query.decode("latin-1"), values=self._query_values)
        _add_server(attributes, headers, scope)
        client = scope.get("client")
        if client:
            attributes["client.address"] = attributes["network.peer.address"] = client[0]
            attributes["client.port"] = attributes["network.peer.port"] = client[1]
        agent = headers.get("user-agent")
        if agent:
            attributes["user_agent.original"] = agent[0]
        if self._request_headers:
            attributes |= self._sanitize.sanitize_header_values(
                headers, self._request_headers, normalise_request_header_name
            )
        return attributes

    def response_attributes(self, message: Message) -> dict[str, Any]:
        """The response headers that settings ask for, by `http.response.header.<name>`."""
        headers = _decoded(message.get("headers", ()))
        found: dict[str, Any] = self._sanitize.sanitize_header_values(
            headers, self.response_headers, normalise_response_header_name
        )
        return found

    def _propagation_of(self, propagator: TextMapPropagator) -> "_Propagation":
        fields = frozenset(field.lower() for field in propagator.fields)
        wanted = None
        if fields <= _W3C_FIELDS and not self._request_headers:
            wanted = frozenset(name.encode() for name in (*fields, "host", "user-agent"))
        return _Propagation(propagator, fields, wanted)

    def _parent(self, headers: dict[str, list[str]], propagation: "_Propagation") -> tuple[Context | None, list[Link]]:
        # None is the current context: that of an in-process caller, or an empty one under a server
        if headers.keys().isdisjoint(propagation.fields):
            return None, []
        size = sum(len(value) for field in propagation.fields for value in headers.get(field, ()))
        if size > _PROPAGATION_BUDGET:
            self.signals.metrics.telemetry_errors.child("propagation_budget").inc()
            return None, []
        if len(headers.get("traceparent", ())) > 1:
            # W3C trace context, 4.3: more than one traceparent is as good as none
            headers = {name: values for name, values in headers.items() if name not in {"traceparent", "tracestate"}}
        try:
            context = propagation.propagator.extract(headers, context=Context(), getter=_GETTER)
        except Exception as error:  # noqa: BLE001 - a propagator is anybody's code
            self.signals.guard.failed("propagator", error)
            return None, []
        if self._trust:
            return context, []
        remote = trace.get_current_span(context).get_span_context()
        return Context(), [Link(remote)] if remote.is_valid else []


class RequestLayer:
    """ASGI middleware, outermost of the app's own: opens, feeds and closes one `_Exchange` per request."""

    def __init__(self, app: ASGIApp, requests: Requests, *, join: bool, on_new_loop: NewLoop) -> None:
        """`join`: a SERVER span of another instrumentation is open around this layer; use it, start none.

        `on_new_loop` is called when a request comes on another event loop than the one before it, and so on the first;
        the request waits for what it returns, if it returns something.
        """
        self.app = app
        self.on = True
        self._requests = requests
        self._join = join
        self._loop: object = None
        self._on_new_loop = on_new_loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, observed unless something prevents it."""
        kind = scope["type"]
        if not self.on or kind not in {"http", "websocket"} or "otel_fastperf" in scope:
            await self.app(scope, receive, send)
            return
        if self._loop is not _running_loop():
            await self._meet_loop()
        observed = self._open(scope, receive, send)
        if observed is None:
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, observed.receive, observed.send)
        except BaseException as error:
            observed.close(error)
            raise
        finally:
            observed.close(None)

    async def _meet_loop(self) -> None:
        self._loop = _running_loop()
        try:
            starting = self._on_new_loop()
            if starting is not None:
                await starting
        except Exception as error:  # noqa: BLE001 - the request goes on
            self._requests.signals.guard.failed("requests", error)

    def _open(self, scope: Scope, receive: Receive, send: Send) -> "_Observed | None":
        requests = self._requests
        try:
            # whoever looks at the scope further inside must not observe the request again: an app mounted in this one
            # with telemetry of its own, FastAPI's native telemetry of that app, Starlette's OpenTelemetryMiddleware
            scope["otel_fastperf"] = scope["starlette.opentelemetry"] = True
            native = scope.setdefault("fastapi.telemetry", None)
            observed = self._observed(
                scope, receive, send, join=self._join or getattr(native, "span", None) is not None
            )
            observed.enter()
        except Exception as error:  # noqa: BLE001 - the request goes on untraced
            requests.signals.guard.failed("requests", error)
            return None
        return observed

    def _observed(self, scope: Scope, receive: Receive, send: Send, *, join: bool) -> "_Observed":
        if self._requests.excludes(scope):
            return _Excluded(self._requests, scope, receive, send)
        kind = _Connection if scope["type"] == "websocket" else _Exchange
        return kind(self._requests, scope, receive, send, join=join)


class RouterLayer:
    """Around the app's router, innermost: sees the scope that is routed and the exceptions that leave the router.

    Middleware in between may copy the scope, or swallow the exception of a response that has begun, as
    `@app.middleware("http")` does: from outside such a response looks complete.
    """

    def __init__(self, app: ASGIApp, signals: Signals) -> None:
        self.app = app
        self.on = True
        self._signals = signals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note on its record what the router makes of it."""
        record = CURRENT.get()
        if not self.on or scope["type"] == "lifespan" or record is None or not self._is_first(record):
            await self.app(scope, receive, send)
            return
        record.routed = True
        record.scope = scope
        record.root_path = scope.get("root_path", "")

        async def answering(message: Message) -> None:
            record.answered = True
            await send(message)
            # whatever is sent next has to be made first, and who makes it is the endpoint
            record.enter(Phase.HANDLER)

        outer = record.enter(Phase.ROUTING)
        try:
            await self.app(scope, receive, answering)
        except Exception as error:
            if record.answered:
                record.broken_by = error
            else:
                record.escaped = error
            raise
        finally:
            record.enter(outer)

    def _is_first(self, record: RequestRecord) -> bool:
        """Not the router of an app that is mounted in the one that is observed, and not another telemetry's request."""
        return record.owner is self._signals and not record.routed


class _Observed:
    """One request or connection: puts its record and its span into the context, and takes them out again."""

    __slots__ = (
        "_context",
        "_ended",
        "_join",
        "_receive",
        "_send",
        "_token",
        "disconnected",
        "record",
        "requests",
        "span",
        "started_ns",
    )

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        # when it began by the wall clock, how long it took by one that is never set
        self.started_ns = time.time_ns()
        started = time.perf_counter()
        self.requests = requests
        self.span = span = trace.get_current_span() if join else self._start_span(requests, scope)
        self.disconnected = False
        self.record = RequestRecord(requests.signals, scope, span, started)
        self._receive = receive
        self._send = send
        self._join = join
        self._ended = False
        self._context: Any = None
        self._token: Any = None

    def _start_span(self, requests: Requests, scope: Scope) -> Span:
        raise NotImplementedError

    def enter(self) -> None:
        """Put span and record into the context. Called last: what fails before leaves no trace there."""
        if not self._join:
            self._context = otel_context.attach(trace.set_span_in_context(self.span))
        self._token = CURRENT.set(self.record)

    async def receive(self) -> Message:
        return await self._receive()

    async def send(self, message: Message) -> None:
        await self._send(message)

    def close(self, error: BaseException | None) -> None:
        """The app has returned, or raised `error`. Called once with the error and once without, which only detaches."""
        if error is not None or not self._ended:
            self._guarded(self._finish, error)
        if error is None:
            self._guarded(self._detach)

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as failure:  # noqa: BLE001 - the response is the app's, whatever happens here
            self.requests.signals.guard.failed("requests", failure)

    def _detach(self) -> None:
        CURRENT.reset(self._token)
        if self._context is not None:
            otel_context.detach(self._context)

    def _finish(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def _end_span(self) -> None:
        """End it when the last byte was sent; what telemetry does afterwards is not the request's."""
        if not self._join:
            self.span.end(self.started_ns + int(self.record.seconds * 1e9))

    def _exemplar(self) -> dict[str, str] | None:
        return exemplar_of(self.span) if self.requests.exemplars else None


class _Excluded(_Observed):
    """A request under an excluded URL: no span, no metric, and neither for its SQL or the app's own spans."""

    __slots__ = ()

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(requests, scope, receive, send, join=False)
        self.record.excluded = True

    def _start_span(self, requests: Requests, scope: Scope) -> Span:  # noqa: ARG002 - all are called alike
        return NonRecordingSpan(_SAMPLED_OUT)

    def _finish(self, error: BaseException | None) -> None:  # noqa: ARG002 - all are called alike
        self._ended = True


class _Exchange(_Observed):
    """One HTTP request and its response."""

    __slots__ = (
        "_active",
        "_chunks",
        "_complete",
        "_first_byte",
        "_labels",
        "_read",
        "_trailers",
        "received",
        "sent",
    )

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        if join and self.span.is_recording():
            self.span.set_attributes(requests.attributes(scope, _decoded(scope["headers"])))
        scheme = scope.get("scheme", "http")
        self._labels = (requests.method(scope), scheme if scheme in {"http", "https"} else "_OTHER")
        self._complete = self._trailers = self._read = False
        self._first_byte = 0.0
        self._chunks = self.received = self.sent = 0
        self._active = requests.signals.metrics.active_requests.child(*self._labels)
        self._active.inc()
        self.record.send = self.send
        self.record.middlewares = requests.middlewares

    def _start_span(self, requests: Requests, scope: Scope) -> Span:
        return requests.start_span(scope, _verb(requests.method(scope)), self.started_ns)

    async def receive(self) -> Message:
        if self._read:
            # whoever asks now waits for the client to go away, while the app works on
            message = await self._receive()
        else:
            before = self.record.enter(Phase.SEND)
            message = await self._receive()
            self.record.enter(before)
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            self._read = not message.get("more_body", False)
        else:
            # after the last byte every server says "disconnect"; before it, the client has gone
            self.disconnected = not self._complete
        return message

    async def send(self, message: Message) -> None:
        self._guarded(self._before_send, message)
        before = self.record.enter(Phase.SEND)
        await self._send(message)
        self.record.enter(before)
        if self._complete and not self._ended:
            self._guarded(self._last_byte_sent)

    def _before_send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._started(message)
        elif kind == "http.response.body":
            self._chunks += 1
            self.sent += len(message.get("body", b""))
            self._complete = not message.get("more_body", False) and not self._trailers
        elif kind == "http.response.trailers":
            self._complete = not message.get("more_trailers", False)
        elif kind == "http.response.pathsend":
            self._complete = True
        if self._complete and self._join:
            # the span's owner ends it as soon as the message below has passed
            self.record.ended = time.perf_counter()
            self._conclude(self.record.route, self._failure(None))

    def _started(self, message: Message) -> None:
        self.record.status = message["status"]
        self._trailers = message.get("trailers", False)
        self._first_byte = time.perf_counter() - self.record.started
        if self.requests.response_headers and self.span.is_recording():
            self.span.set_attributes(self.requests.response_attributes(message))

    def _last_byte_sent(self) -> None:
        self.record.ended = time.perf_counter()
        if (self.record.status or 0) < 500:  # noqa: PLR2004
            self._finish(None)
        # else wait for the exception: ServerErrorMiddleware sends its 500 first and raises afterwards

    def _failure(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        """`(error.type, exception)`; `("", None)` when the request went well."""
        record = self.record
        status = record.status or 0
        cause = _alone(error or record.broken_by)
        if _is_disconnect(cause) or (self.disconnected and not isinstance(cause, Exception)):
            return "ClientDisconnect", None
        if cause is None and (status >= 500 or not self._complete):  # noqa: PLR2004
            cause = _alone(record.escaped)
        if cause is not None:
            return error_type(cause), cause
        if status >= 500:  # noqa: PLR2004
            return str(status), None
        return ("", None) if self._complete else ("incomplete_response", None)

    def _finish(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        record = self.record
        record.ended = record.ended or time.perf_counter()
        try:
            failure, route = self._failure(error), record.route
            if record.budget is None:
                self._conclude(route, failure)
            self._measure(route or UNMATCHED, failure[0])
        finally:
            self._end_span()
            self._active.dec()

    def _conclude(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        """Make the budget, look for bottlenecks, and put all that is known on the span."""
        record, signals = self.record, self.requests.signals
        signals.delays.catch_up()
        record.budget = split(record.started, record.ended, record.phases, self._intervals())
        signals.findings.request_ended(record)
        self._annotate(route, failure)

    def _intervals(self) -> list[Interval]:
        """What it waited for, and what stood in its way."""
        record, delays = self.record, self.requests.signals.delays
        intervals = list(record.intervals)
        pauses = delays.pauses
        # by number: a collection that begins here appends to it, which ends an iteration with an error
        for back in range(1, len(pauses) + 1):
            start, end = pauses[-back]
            if end <= record.started:
                break
            intervals.append((start, end, Cause.GC))
        if delays.blocks:
            intervals += self._loop_waits(blocks_that_delayed(record, delays.blocks))
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
            span.update_name(f"{_verb(self._labels[0])} {route}")
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
        metrics.request_body_size.child(method, route).observe(self.received)
        metrics.response_body_size.child(method, route).observe(self.sent)
        metrics.request_db_statements.child(route).observe(record.db_statements)
        if record.budget is not None:
            for segment, seconds in record.budget.segments.items():
                metrics.request_time.child(route, segment).inc(seconds)
            for middleware, seconds in record.self_times():
                metrics.middleware_self_time.child(middleware.name).observe(seconds)


class _Connection(_Observed):
    """One websocket connection, from handshake to close."""

    __slots__ = ("_accepted", "_code")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        self._accepted = False
        #: close code: 1005 is "none given", an orderly close
        self._code = 1005
        requests.signals.metrics.websocket_active_connections.inc()

    def _start_span(self, requests: Requests, scope: Scope) -> Span:
        return requests.start_span(scope, "WS", self.started_ns)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.disconnected = True
            self._code = message.get("code", 1005)
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            self.record.status = 101
        elif kind == "websocket.close":
            self._code = message.get("code", 1000)
            if not self._accepted:
                self.record.status = 403
        elif kind == "websocket.http.response.start":
            self.record.status = message["status"]
        await self._send(message)

    def _failure(self, error: BaseException | None) -> tuple[str, BaseException | None]:
        if error is not None and type(error).__name__ != "WebSocketDisconnect":
            return error_type(error), error
        # RFC 6455, 7.4.1: 1000 and 1001 are orderly, 1005 is no code at all
        if self._accepted and self._code not in {1000, 1001, 1005}:
            return ("ClientDisconnect" if self.disconnected else str(self._code)), None
        return "", None

    def _finish(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        metrics, span, record = self.requests.signals.metrics, self.span, self.record
        record.ended = time.perf_counter()
        metrics.websocket_active_connections.dec()
        kind, cause = self._failure(error)
        route = record.route
        if span.is_recording():
            if route is not None:
                span.update_name(f"WS {route}")
                span.set_attribute("http.route", route)
            if record.status is not None:
                span.set_attribute("http.response.status_code", record.status)
            if self._accepted:
                span.set_attribute("fastperf.websocket.close_code", self._code)
            if kind:
                fail_span(span, kind, cause)
        duration = metrics.websocket_connection_duration.child(route or UNMATCHED, kind)
        duration.observe(record.seconds, self._exemplar())
        self._end_span()


def _running_loop() -> object:
    """The running event loop; None under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _verb(method: str) -> str:
    # semconv: the span name of a method outside of the known list begins with HTTP
    return "HTTP" if method == "_OTHER" else method


def _decoded(headers: Iterable[tuple[bytes, bytes]], wanted: Container[bytes] | None = None) -> dict[str, list[str]]:
    """Headers by name in lower case: those that are wanted, or all."""
    # latin-1 takes every byte: no header a client can send fails here
    decoded: dict[str, list[str]] = {}
    for name, value in headers:
        key = name.lower()
        if wanted is None or key in wanted:
            decoded.setdefault(key.decode("latin-1"), []).append(value.decode("latin-1"))
    return decoded


def _shown_query(query: str, *, values: bool) -> str:
    shown = []
    for part in query.split("&"):
        key, equals, _ = part.partition("=")
        keep = not equals or (values and key not in _ALWAYS_REDACTED)
        shown.append(part if keep else f"{key}=REDACTED")
    return "&".join(shown)


def _add_server(attributes: dict[str, Any], headers: dict[str, list[str]], scope: Scope) -> None:
    """`server.address` and `server.port` from the Host header, else from the socket."""
    host = headers.get("host", [""])[0]
    address, port = _host_and_port(host) if host else (scope.get("server") or ("", None))
    if address:
        attributes["server.address"] = address
        port = port or _DEFAULT_PORTS.get(scope.get("scheme", "http"), 80)
        attributes["server.port"] = port


def _host_and_port(host: str) -> tuple[str, int | None]:
    bracket = host.rfind("]")
    name, colon, digits = host.rpartition(":")
    if not colon or host.rfind(":") < bracket:
        return host, None
    is_port = digits.isascii() and digits.isdigit() and len(digits) <= len("65535")
    return (name, int(digits)) if is_port else (host, None)


def _alone(error: BaseException | None) -> BaseException | None:
    """The one exception of a group of one: Starlette < 0.45 streams in a task group, which wraps what is raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_disconnect(error: BaseException | None) -> bool:
    return error is not None and type(error).__name__ == "ClientDisconnect"
