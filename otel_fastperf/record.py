"""What is known of the request that is running: one mutable object per request, found through one ContextVar.

The object is shared by every task, thread and greenlet that works for the request (they copy the *context*, not the
object), so a query in a gathered task counts for the request that started it.
"""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry.trace import Span

from otel_fastperf.route import route_template


class RequestRecord:
    """One request, or one websocket connection, from its first to its last byte."""

    __slots__ = (
        "answered",
        "broken_by",
        "db_seconds",
        "db_statements",
        "escaped",
        "excluded",
        "owner",
        "root_path",
        "routed",
        "scope",
        "span",
        "started",
        "status",
    )

    def __init__(self, owner: object, scope: MutableMapping[str, Any], span: Span, started: float) -> None:
        #: the `Signals` of the telemetry that serves this request (two apps in one process have one each)
        self.owner = owner
        #: the ASGI scope as the router sees it; middleware may have copied it on the way down
        self.scope = scope
        self.root_path: str = scope.get("root_path", "")
        #: True once the request has reached the app's router
        self.routed = False
        self.span = span
        #: `time.perf_counter()` when the request arrived
        self.started = started
        #: response status, once the response has started
        self.status: int | None = None
        #: True once the router has begun its response, which middleware may still hold back or replace
        self.answered = False
        #: an exception that left the router before the response started
        self.escaped: BaseException | None = None
        #: an exception that left the router after the response started: the response is cut short, whatever its status
        self.broken_by: BaseException | None = None
        #: True for a request under an excluded URL: neither it nor its SQL is measured
        self.excluded = False
        self.db_statements = 0
        self.db_seconds = 0.0

    @property
    def route(self) -> str | None:
        """The route template as far as it is known by now; None before the router has run, or if no route matched."""
        return route_template(self.scope, self.root_path)


#: The record of the request this code runs for; None outside of a request.
CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("otel_fastperf_record", default=None)
