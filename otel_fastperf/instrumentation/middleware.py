"""Whose turn it is between two middlewares: a thin layer between each of the app's middlewares and the next.

A request goes down through the layers and its response comes up again through `send`, so both ways are watched. What
every app has (ServerErrorMiddleware, ExceptionMiddleware, FastAPI's own) does next to nothing and gets none: an app
without middleware pays nothing. What a middleware takes itself is `Budget.middleware`.

`BaseHTTPMiddleware` runs the inner app in a task of its own, and its `dispatch` goes on while that task waits: no layer
around it sees that. So its `dispatch_func` is timed instead; that one task waits for the other to be run is the event
loop's time, not the middleware's, and stays where it was.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack
from typing import Any, Final

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router

from otel_fastperf.detectors.slow_middleware import REPEATS, SelfTime, detect_slow_middleware
from otel_fastperf.findings import Finding
from otel_fastperf.instrumentation.other_telemetry import chain
from otel_fastperf.internals.frames import definition
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import CURRENT, Middleware, RequestRecord
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.settings import MiddlewareSettings
from otel_fastperf.signals import Signals

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
_CallNext = Callable[[Any], Awaitable[Any]]
_DispatchFunction = Callable[[Any, _CallNext], Awaitable[Any]]

#: whose middlewares are not the app's: ours, the frame that FastAPI puts around every app, other instrumentations
_NOT_THE_APPS: Final = ("otel_fastperf.", "fastapi.", "opentelemetry.")


class MiddlewareTimer:
    """Times the middlewares of one app's stack. Made before the stack is built."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        #: what was found in the stack, from the outside in; number n has the phase `Phase.MIDDLEWARE + n`
        self.middlewares: tuple[Middleware, ...] = ()
        self._dispatches = ExitStack()

    def place(self, stack: Any, boundary: Callable[..., Any]) -> None:
        """Put `boundary(inner, phase, sends)` between every middleware and what it passes requests on to."""
        nodes = list(_users_own(stack))
        if nodes:
            self.middlewares = _described(nodes)
            for number, node in enumerate(nodes):
                base_http = isinstance(node, BaseHTTPMiddleware)
                node.app = boundary(node.app, Phase.MIDDLEWARE + number + 1, not base_http)
                if base_http:
                    timer = _DispatchTimer(Phase.MIDDLEWARE + number, self._signals)
                    self._dispatches.enter_context(subscribed(node, "dispatch_func", _timing_dispatch, self, timer))
        for kind in ("asgi", "base_http"):
            number = sum(each.kind == kind for each in self.middlewares)
            self._signals.metrics.middlewares.child(kind).set(number)

    def remove(self) -> None:
        """Give every `dispatch` back. The boundaries are taken out with the other layers."""
        self._dispatches.close()


class SlowMiddlewares:
    """A detector of requests: remembers the last few of each route in which a middleware was slow."""

    def __init__(self, settings: MiddlewareSettings) -> None:
        self._settings = settings
        self._recent: dict[tuple[str, str], deque[SelfTime]] = {}

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """See `reporting.Detector`. On the event loop, one request at a time."""
        for middleware, seconds in record.self_times():
            spent = SelfTime(seconds, record.seconds)
            key = (record.route or "", middleware.name)
            if not spent.is_slow(self._settings):
                self._recent.pop(key, None)
                continue
            recent = self._recent.setdefault(key, deque(maxlen=REPEATS))
            recent.append(spent)
            yield from detect_slow_middleware(middleware, tuple(recent), self._settings)


class Boundary:
    """ASGI middleware between two of the app's: notes on the record that the inner one is at work, then the outer."""

    def __init__(self, signals: Signals, app: Any, phase: int, sends: bool) -> None:  # noqa: FBT001 - called by place()
        """`app` is the inner one, `phase` its phase; `sends`: the outer one sends in the task of the inner one."""
        self.app = app
        self.on = True
        self._phase = phase
        self._sends = sends
        self._signals = signals

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI."""
        record = CURRENT.get()
        if not self.on or record is None or record.owner is not self._signals or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if send is not record.send:
            # the middleware outside of here has put a `send` of its own around the one it got
            if self._sends:
                send = _returning_to(self._phase - 1, send)
            record.send = send
        outer = record.enter(self._phase)
        try:
            await self.app(scope, receive, send)
        finally:
            record.enter(outer)


def _returning_to(phase: int, send: Any) -> Any:
    async def timed(message: Message) -> None:
        record = CURRENT.get()
        if record is None:
            await send(message)
            return
        inner = record.enter(phase)
        try:
            await send(message)
        finally:
            record.enter(inner)

    return timed


class _DispatchTimer:
    """Notes when a `dispatch` of `BaseHTTPMiddleware` runs, and when it waits for the inner app."""

    def __init__(self, phase: int, signals: Signals) -> None:
        self._phase = phase
        self._signals = signals

    async def run(self, dispatch: _DispatchFunction, request: Any, call_next: _CallNext) -> Any:
        """Run `dispatch(request, call_next)`."""
        record = CURRENT.get()
        if record is None or record.owner is not self._signals:
            return await dispatch(request, call_next)

        async def timed_next(request: Any) -> Any:
            record.enter(self._phase + 1)
            try:
                return await call_next(request)
            finally:
                record.enter(self._phase)

        record.enter(self._phase)
        response = await dispatch(request, timed_next)
        # the response body follows, which the inner app produces meanwhile
        record.enter(record.innermost)
        return response


def _timing_dispatch(original: _DispatchFunction, patch: Patch[_DispatchTimer]) -> _DispatchFunction:
    async def dispatch(request: Any, call_next: _CallNext) -> Any:
        for timer in patch.subscribers.values():  # one: an app has one telemetry at a time
            return await timer.run(original, request, call_next)
        return await original(request, call_next)

    return dispatch


def _users_own(stack: Any) -> Iterator[Any]:
    """The app's middlewares in a built stack, from the outside in, as far as each knows the next by `.app`."""
    for node in chain(stack):
        if isinstance(node, Router) or not hasattr(node, "app"):
            return
        frame = isinstance(node, ServerErrorMiddleware | ExceptionMiddleware)
        if not frame and not type(node).__module__.startswith(_NOT_THE_APPS):
            yield node


def _described(nodes: list[Any]) -> tuple[Middleware, ...]:
    described: list[Middleware] = []
    taken: dict[str, int] = {}
    for node in nodes:
        function = _function(node)
        name = type(node).__name__
        if type(node) is BaseHTTPMiddleware:
            # `@app.middleware("http")`: the function says more than the class
            name = getattr(function, "__name__", name)
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        kind = "base_http" if isinstance(node, BaseHTTPMiddleware) else "asgi"
        described.append(Middleware(name, kind, definition(function)))
    return tuple(described)


def _function(node: Any) -> Any:
    return node.dispatch_func if isinstance(node, BaseHTTPMiddleware) else type(node).__call__
