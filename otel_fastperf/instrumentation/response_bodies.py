"""Waits for the body of an HTTP response: a client reads it after the headers, with which the span of the call ends.

A service that answers at once and then thinks, as a language model does that streams its answer, is slow only here.
Each wait for a piece of the body is an interval of the time budget, and all waits for one body together are a call that
took that long. For httpx, whose streams are patched once the application has imported it.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import wraps
from typing import Any, Final

from opentelemetry import trace

from otel_fastperf.instrumentation.outgoing_calls import OutgoingCall, OutgoingCalls
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.signals import Signals
from otel_fastperf.tracing.span import CallSpan

_MODULE: Final = "httpx._transports.default"
#: attribute of a stream that carries its call
_CALL: Final = "_fastperf_call"


@asynccontextmanager
async def response_bodies_observed(calls: OutgoingCalls, signals: Signals) -> AsyncIterator[None]:
    """Note the waits for bodies, until the context manager exits."""
    module = sys.modules.get(_MODULE)
    with ExitStack() as exits:
        for name, method, wrap in (
            ("AsyncResponseStream", "__aiter__", _awaiting),
            ("ResponseStream", "__iter__", _waiting),
        ):
            stream = getattr(module, name, None)
            if stream is not None and hasattr(stream, method):
                exits.enter_context(subscribed(stream, "__init__", _claiming, signals, calls))
                exits.enter_context(subscribed(stream, method, wrap, signals, calls))
        yield


def _claiming(original: Any, patch: Patch[OutgoingCalls]) -> Any:
    """A stream is made inside of the span of its call."""

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces a constructor
        original(self, *args, **kwargs)
        try:
            span = trace.get_current_span()
            if isinstance(span, CallSpan) and isinstance(span.call, OutgoingCall):
                self.__dict__[_CALL] = span.call
        except Exception as error:  # noqa: BLE001 - costs the evidence, not the call
            for calls in patch.subscribers.values():
                calls.failed(error)

    return __init__


def _awaiting(original: Callable[[Any], AsyncIterator[bytes]], patch: Patch[OutgoingCalls]) -> Any:
    @wraps(original)
    async def __aiter__(self: Any) -> AsyncIterator[bytes]:  # noqa: N807 - it replaces a method
        body = _Body(self, patch)
        parts = original(self)
        try:
            while True:
                body.waits()
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    break
                finally:
                    body.goes_on()
                yield part
        finally:
            body.ends()
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()

    return __aiter__


def _waiting(original: Callable[[Any], Iterator[bytes]], patch: Patch[OutgoingCalls]) -> Any:
    @wraps(original)
    def __iter__(self: Any) -> Iterator[bytes]:  # noqa: N807 - it replaces a method
        body = _Body(self, patch)
        parts = original(self)
        try:
            while True:
                body.waits()
                try:
                    part = next(parts)
                except StopIteration:
                    break
                finally:
                    body.goes_on()
                yield part
        finally:
            body.ends()
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    return __iter__


class _Body:
    """The body of one response while it is read."""

    __slots__ = ("_began", "_call", "_calls", "_since", "_total")

    def __init__(self, stream: Any, patch: Patch[OutgoingCalls]) -> None:
        self._call: OutgoingCall | None = getattr(stream, _CALL, None)
        self._calls = next(iter(patch.subscribers.values()), None)
        self._began = self._since = time.perf_counter()
        self._total = 0.0

    def waits(self) -> None:
        """For the next piece."""
        self._since = time.perf_counter()

    def goes_on(self) -> None:
        """A piece is there, or the end, or an error."""
        now = time.perf_counter()
        self._total += now - self._since
        if self._call is not None and self._calls is not None:
            self._calls.note_body(self._call, self._since, now, self._total)

    def ends(self) -> None:
        """Nothing more is read."""
        if self._call is not None and self._calls is not None:
            self._calls.note_whole_body(self._call, self._began, self._total)
        self._call = None
