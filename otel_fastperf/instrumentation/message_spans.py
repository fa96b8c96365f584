"""Spans of the messages of a websocket connection, for those who ask for them.

    WS /chat/{room} process     from the arrival of a message until the application asks for the next one
    WS /chat/{room} send        until the server has taken the message

There is no convention for websockets. `process` and `send` are the operations of the conventions for messaging, and
`network.io.direction` is theirs for networks.
"""

import time
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from starlette.types import Message

from otel_fastperf.internals.spans import SPAN_KEY, fail_span
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.route import UNMATCHED, WEBSOCKET
from otel_fastperf.signals import Signals

_SECOND: Final = 1.0


class MessageSpans:
    """The message spans of one connection."""

    def __init__(self, signals: Signals, record: RequestRecord, most: int) -> None:
        """`most`: spans a second. Further messages have none, and are counted."""
        self._signals = signals
        self._record = record
        self._most = most
        self._since = 0.0
        self._number = 0
        #: the span of the message that is processed, and the context around it
        self._processed: Span | None = None
        self._around: Context | None = None

    def asked(self) -> None:
        """The application asks for a message: it is done with the one before."""
        span, around = self._processed, self._around
        if span is None:
            return
        self._processed = self._around = None
        # the code that asks may be in another task, or inside of a span of its own
        if around is not None and trace.get_current_span() is span:
            otel_context.attach(around)
        span.end()

    def received(self, message: Message) -> None:
        """The application gets a message; spans that it starts from now on are below that of the message."""
        span = self._start("process", "receive", message)
        if span is not None:
            self._processed, self._around = span, otel_context.get_current()
            otel_context.attach(Context({**self._around, SPAN_KEY: span}))

    def sending(self, message: Message) -> Span | None:
        """The span of a message that is sent, which the caller ends; None if it has none."""
        return self._start("send", "transmit", message)

    def close(self, kind: str, error: BaseException | None) -> None:
        """The connection has ended. `kind` is its `error.type`; "" for none."""
        if self._processed is not None and kind:
            fail_span(self._processed, kind, error, self._signals.exceptions)
        self.asked()

    def _start(self, operation: str, direction: str, message: Message) -> Span | None:
        if not self._record.span.is_recording():
            return None
        if not self._is_room():
            self._signals.metrics.websocket_message_spans_dropped.inc()
            return None
        route = self._record.route or UNMATCHED
        text = message.get("text")
        attributes: dict[str, Any] = {
            "network.protocol.name": "websocket",
            "network.io.direction": direction,
            "http.route": route,
            "fastperf.websocket.message.type": "binary" if text is None else "text",
            "fastperf.websocket.message.size": _size(message.get("bytes") or b"" if text is None else text),
        }
        return self._signals.tracer.start_span(f"{WEBSOCKET} {route} {operation}", attributes=attributes)

    def _is_room(self) -> bool:
        now = time.monotonic()
        if now - self._since >= _SECOND:
            self._since, self._number = now, 0
        self._number += 1
        return self._number <= self._most


def _size(content: str | bytes) -> int:
    """Bytes of a message."""
    if isinstance(content, bytes) or content.isascii():
        return len(content)
    return len(content.encode(errors="surrogatepass"))
