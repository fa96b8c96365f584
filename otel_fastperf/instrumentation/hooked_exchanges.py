"""Requests and connections of an app with hooks. Those of other apps do not pay for them."""

from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from otel_fastperf.instrumentation.exchanges import Connection, Exchange, Observed, Requests

#: the first message of an answer
_FIRST = frozenset({"websocket.accept", "websocket.close", "websocket.http.response.start"})


class HookedExchange(Exchange):
    """One HTTP request whose span the application's hooks see."""

    __slots__ = ("_chosen_name", "_message")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        self._message: Message = {}
        self._chosen_name: str | None = None

    def enter(self) -> None:
        """Put it into the context, then call the hook, in which the span is the current one."""
        super().enter()
        self._chosen_name = _begun(self)

    def _started(self, message: Message) -> None:
        self._message = message
        super()._started(message)

    def _may_be_derived_late(self) -> bool:
        # the hook runs on the event loop, while the scope has all that the app has put there
        return self.requests.hooks.response is None and super()._may_be_derived_late()

    def _annotate(self, route: str | None, failure: tuple[str, BaseException | None]) -> None:
        super()._annotate(route, failure)
        if self._chosen_name is not None:
            self.span.update_name(self._chosen_name)
        _ending(self, self._message)
        self._message = {}


class HookedConnection(Connection):
    """One websocket connection whose span the application's hooks see."""

    __slots__ = ("_chosen_name", "_message")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        self._message: Message = {}
        self._chosen_name: str | None = None

    def enter(self) -> None:
        """Put it into the context, then call the hook, in which the span is the current one."""
        super().enter()
        self._chosen_name = _begun(self)

    async def send(self, message: Message) -> None:
        """Send, and keep the first message of the answer."""
        if not self._message and message["type"] in _FIRST:
            self._message = message
        await super().send(message)

    def _end_span(self) -> None:
        if self._chosen_name is not None:
            self.span.update_name(self._chosen_name)
        _ending(self, self._message)
        self._message = {}
        super()._end_span()


def _begun(observed: Observed) -> str | None:
    """Call the hook for the start; the name that it has given the span, if it has."""
    hook, span = observed.requests.hooks.request, observed.span
    if hook is None:
        return None
    before = getattr(span, "name", None)
    _call(observed, "server_request_hook", hook, span, observed.record.scope)
    name: str | None = getattr(span, "name", None)
    return None if name == before else name


def _ending(observed: Observed, message: Message) -> None:
    hook = observed.requests.hooks.response
    if hook is not None:
        _call(observed, "server_response_hook", hook, observed.span, observed.record.scope, message)


def _call(observed: Observed, part: str, hook: Callable[..., object], *arguments: Any) -> None:
    try:
        hook(*arguments)
    except Exception as error:  # noqa: BLE001 - the application's own function
        observed.requests.signals.guard.failed(part, error)
