"""The two ASGI layers that observe a request: around the app, and around its router.

`RequestLayer` opens and closes one exchange per request. `RouterLayer` notes what only the router knows: the scope that
was routed, and the exceptions that leave the router.
"""

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_fastperf.instrumentation.exchanges import Connection, Exchange, Excluded, Observed, Requests
from otel_fastperf.instrumentation.hooked_exchanges import HookedConnection, HookedExchange
from otel_fastperf.instrumentation.suspension import driving, starting
from otel_fastperf.internals.waiting import running_loop
from otel_fastperf.requests.record import CURRENT, Progress, RequestRecord
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.signals import Signals

#: called when requests arrive on a new event loop; the request waits for what it returns, if anything
NewLoop = Callable[[], Awaitable[object] | None]


class RequestLayer:
    """ASGI middleware, outermost of the app's own: opens and closes one exchange per request."""

    def __init__(self, app: ASGIApp, requests: Requests, *, join: bool, on_new_loop: NewLoop) -> None:
        """`join`: use the SERVER span of another instrumentation, which is open around this layer, and start none.

        `on_new_loop` is called for the first request on an event loop; the request waits for what it returns, if
        anything.
        """
        self.app = app
        self.on = True
        self._requests = requests
        self._join = join
        # that of the last request; no loop is None, which stands for trio
        self._loop: object = self
        self._on_new_loop = on_new_loop
        self._kind: type[Exchange] = HookedExchange if requests.hooks.any else Exchange
        self._connection: type[Connection] = HookedConnection if requests.hooks.any else Connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, observed unless something prevents it."""
        kind = scope["type"]
        if not self.on or kind not in {"http", "websocket"} or "otel_fastperf" in scope:
            await self.app(scope, receive, send)
            return
        if self._loop is not running_loop():
            await self._meet_loop()
        observed = self._open(scope, receive, send)
        if observed is None:
            await self.app(scope, receive, send)
            return
        app = self.app(scope, observed.receive, observed.send)
        try:
            # a websocket has no budget, nor has a request that is excluded
            await (driving(app, observed.record, self._requests.signals) if isinstance(observed, Exchange) else app)
        except BaseException as error:
            observed.fail(error)
            raise
        finally:
            observed.leave()

    async def _meet_loop(self) -> None:
        self._loop = running_loop()
        try:
            starting = self._on_new_loop()
            if starting is not None:
                await starting
        except Exception as error:  # noqa: BLE001 - the request goes on
            self._requests.signals.guard.failed("requests", error)

    def _open(self, scope: Scope, receive: Receive, send: Send) -> Observed | None:
        requests, observed = self._requests, None
        try:
            # keeps others further inside from observing the request again: a mounted app with telemetry of its own,
            # FastAPI's native telemetry of that app, Starlette's OpenTelemetryMiddleware
            scope["otel_fastperf"] = scope["starlette.opentelemetry"] = True
            native = scope.setdefault("fastapi.telemetry", None)
            observed = self._exchange(
                scope, receive, send, join=self._join or getattr(native, "span", None) is not None
            )
            observed.enter()
        except Exception as error:  # noqa: BLE001 - the request goes on untraced
            requests.signals.guard.failed("requests", error)
            if observed is not None:
                observed.give_up()
            return None
        return observed

    def _exchange(self, scope: Scope, receive: Receive, send: Send, *, join: bool) -> Observed:
        if self._requests.excludes(scope):
            return Excluded(self._requests, scope, receive, send)
        kind = self._connection if scope["type"] == "websocket" else self._kind
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
        record.progress = Progress.ROUTED
        record.scope = scope
        record.root_path = scope.get("root_path", "")

        async def answering(message: Message) -> None:
            record.progress = Progress.ANSWERED
            # the endpoint produces what is sent next: the phase that the outermost layer returns to once this is sent
            record.phase = Phase.HANDLER
            await send(message)

        in_other_task = record.suspended
        if in_other_task:
            starting(record, Phase.ROUTING)
        outer = record.enter(Phase.ROUTING)
        app = self.app(scope, receive, answering)
        try:
            await (driving(app, record, self._signals) if in_other_task else app)
        except Exception as error:
            record.router_error = error
            raise
        finally:
            record.enter(outer)

    def _is_first(self, record: RequestRecord) -> bool:
        """Not the router of an app that is mounted in the one that is observed, and not another telemetry's request."""
        return record.owner is self._signals and record.progress == Progress.ARRIVED
