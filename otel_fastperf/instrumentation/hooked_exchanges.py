"""Requests and connections of an app with hooks. Those of other apps do not pay for them."""

from collections.abc import Callable
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from otel_fastperf.instrumentation.exchanges import Connection, Exchange, Observed, Requests
from otel_fastperf.instrumentation.request_metrics import Labels
from otel_fastperf.instrumentation.server_hooks import RequestLabel

#: most characters of a label's value
_LONGEST: Final = 128
#: the first message of an answer
_FIRST: Final = frozenset({"websocket.accept", "websocket.close", "websocket.http.response.start"})


class HookedExchange(Exchange):
    """One HTTP request whose span the application's hooks see, or whose metric it labels."""

    __slots__ = ("_chosen_name", "_message", "_own_labels")

    def __init__(self, requests: Requests, scope: Scope, receive: Receive, send: Send, *, join: bool) -> None:
        super().__init__(requests, scope, receive, send, join=join)
        self._message: Message = {}
        self._chosen_name: str | None = None
        self._own_labels: tuple[str, ...] = ()

    def enter(self) -> None:
        """Put it into the context, then call the hook, in which the span is the current one."""
        super().enter()
        self._chosen_name = _begun(self)

    def _count_out(self) -> None:
        # on the event loop, while the scope has all that the app has put there
        if self._active is not None:
            self._own_labels = tuple(_label(self, *label) for label in self.requests.hooks.labels.items())
        super()._count_out()

    def _metric_labels(self, route: str) -> Labels:
        return super()._metric_labels(route) + self._own_labels

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


def _label(observed: Observed, name: str, value_of: RequestLabel) -> str:
    try:
        value = value_of(observed.record.scope)
        return "" if value is None else str(value)[:_LONGEST]
    except Exception as error:  # noqa: BLE001 - the application's own function
        observed.requests.signals.guard.failed(f"request_label_{name}", error)
        return ""


def _call(observed: Observed, part: str, hook: Callable[..., object], *arguments: Any) -> None:
    try:
        hook(*arguments)
    except Exception as error:  # noqa: BLE001 - the application's own function
        observed.requests.signals.guard.failed(part, error)
