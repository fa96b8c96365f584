"""Self time of each middleware, measured by a thin layer between each of the app's middlewares and the next.

A request passes inward through the layers, and its response passes outward through `send`, so both directions are
measured. ServerErrorMiddleware, ExceptionMiddleware and FastAPI's own middleware do next to nothing and get no layer,
so an app without middleware pays nothing. The result is `Budget.middleware`.

`BaseHTTPMiddleware` runs the inner app in another task, and its `dispatch` continues while that task waits. No layer
around it can see that, so its `dispatch_func` is timed instead. The time between the two tasks is scheduling delay and
is not charged to the middleware.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Router
from starlette.types import Message, Scope

from otel_fastperf.detectors.slow_middleware import REPEATS, SelfTime, detect_slow_middleware
from otel_fastperf.findings import Finding
from otel_fastperf.instrumentation.other_telemetry import nodes_of
from otel_fastperf.instrumentation.suspension import driving, starting
from otel_fastperf.internals.frames import definition
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.requests.record import CURRENT, Middleware, RequestRecord
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.settings import MiddlewareSettings
from otel_fastperf.signals import Signals

if TYPE_CHECKING:
    from otel_fastperf.requests.route import Route

_CallNext = Callable[[Any], Awaitable[Any]]
_DispatchFunction = Callable[..., Awaitable[Any]]

#: Starlette calls `dispatch_func(request, call_next)`
_STARLETTES_OWN: Final = 2

#: packages whose middlewares are not the app's
_NOT_THE_APPS: Final = ("otel_fastperf.", "fastapi.", "opentelemetry.")


class MiddlewareTimer:
    """Times the middlewares of one app. Created before its middleware chain is built."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        #: the app's middlewares, outermost first; number n has the phase `Phase.MIDDLEWARE + n`
        self.middlewares: tuple[Middleware, ...] = ()
        self._dispatches = ExitStack()

    def place(self, chain: Any, boundary: Callable[..., Any]) -> None:
        """Put `boundary(inner, phase, sends)` between each middleware and the app inside it."""
        nodes = list(_users_own(chain))
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
        """Restore each `dispatch`. The boundaries are removed with the other layers."""
        self._dispatches.close()


class SlowMiddlewares:
    """A detector that remembers the last few requests of each route in which a middleware was slow."""

    def __init__(self, settings: MiddlewareSettings) -> None:
        self._settings = settings
        self._recent: dict[tuple[Route, str], deque[SelfTime]] = {}

    def __call__(self, record: RequestRecord) -> Iterable[Finding]:
        """The findings of one finished request. Called on the event loop's thread or the backlog's."""
        return self._judged(record) if record.middlewares else ()

    def _judged(self, record: RequestRecord) -> Iterator[Finding]:
        for middleware, seconds in record.self_times():
            spent = SelfTime(seconds, record.seconds)
            key = (record.route_key, middleware.name)
            if not spent.is_slow(self._settings):
                self._recent.pop(key, None)
                continue
            recent = self._recent.setdefault(key, deque(maxlen=REPEATS))
            recent.append(spent)
            yield from detect_slow_middleware(middleware, tuple(recent), self._settings)


class Boundary:
    """ASGI middleware between two of the app's: notes on the record when the inner one runs, and when the outer one."""

    def __init__(self, signals: Signals, app: Any, phase: int, sends: bool) -> None:  # noqa: FBT001 - called by place()
        """`app` is the inner app, `phase` its phase. `sends`: the outer one sends in the task of the inner one."""
        self.app = app
        self.on = True
        self._phase = phase
        self._sends = sends
        self._signals = signals

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Call the inner app."""
        record = CURRENT.get()
        if not self.on or record is None or record.owner is not self._signals or scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if send is not record.send:
            # the outer middleware wrapped the `send` that it received
            record.send = send = _returning_to(self._phase - 1 if self._sends else Phase.HAND_OVER, send)
        in_other_task = record.suspended
        if in_other_task:
            starting(record, self._phase)
        outer = record.enter(self._phase)
        app = self.app(scope, receive, send)
        try:
            await (driving(app, record, self._signals) if in_other_task else app)
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
    # the names of its parameters are the app's
    async def dispatch(*arguments: Any, **options: Any) -> Any:
        if len(arguments) == _STARLETTES_OWN and not options:
            for timer in patch.subscribers.values():  # one: an app has one telemetry at a time
                return await timer.run(original, *arguments)
        return await original(*arguments, **options)

    return dispatch


def _users_own(chain: Any) -> Iterator[Any]:
    """The app's middlewares in a built chain, outermost first, up to the first app without an attribute `app`."""
    for node in nodes_of(chain):
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
