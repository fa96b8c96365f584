"""What is known of the request that is running: one mutable object per request, found through one ContextVar.

The object is shared by every task, thread and greenlet that works for the request (they copy the *context*, not the
object), so a query in a gathered task counts for the request that started it.
"""

import threading
import time
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import Span

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.route import route_template
from otel_fastperf.requests.time_budget import Budget, Interval, Mark, Phase
from otel_fastperf.sql.describe import QueryText

if TYPE_CHECKING:
    from otel_fastperf.sql.orm_loads import Load

#: intervals and marks of one request that are kept; what comes after them counts for the phase it lies in
MOST_INTERVALS: Final = 10_000
#: different statements of one request that are looked at
MOST_STATEMENTS: Final = 256


class StatementGroup:
    """One statement of a request, all its executions together. Seconds are sums over them."""

    __slots__ = (
        "call_site",
        "count",
        "dialect",
        "first",
        "last",
        "lines",
        "load",
        "loop_count",
        "loop_seconds",
        "namespace",
        "query",
        "seconds",
        "sequential",
        "slow_call_site",
        "slow_count",
        "slow_rows",
        "slow_seconds",
        "slowest",
        "system",
        "worker",
    )

    def __init__(self, query: QueryText, dialect: str, system: str, namespace: str) -> None:
        self.query = query
        #: SQLAlchemy's name, and OpenTelemetry's
        self.dialect = dialect
        self.system = system
        #: the database
        self.namespace = namespace
        self.count = 0
        self.seconds = 0.0
        #: executions that began in the task, or thread, of the one before when all earlier ones had ended
        self.sequential = 0
        #: start of the first and end of the last, by `time.perf_counter()`
        self.first = self.last = 0.0
        #: the task or thread of the last one; 0 for the first, which is not asked
        self.worker = 0
        #: what it is for; None until it was repeated
        self.load: Load | None = None
        #: executions and their seconds by line, of those for which the line was looked up: the later repeats
        self.lines: dict[CallSite | None, list[float]] = {}
        #: executions that held the event loop: synchronous ones on its thread
        self.loop_count = 0
        self.loop_seconds = 0.0
        #: the line of the first of these
        self.call_site: CallSite | None = None
        #: executions over `slow_query`
        self.slow_count = 0
        self.slow_seconds = 0.0
        self.slowest = 0.0
        #: the line of the slowest, and its rows where the driver knows: -1
        self.slow_call_site: CallSite | None = None
        self.slow_rows = -1

    def add(self, started: float, ended: float, worker: int) -> int:
        """One execution more, by `time.perf_counter()`, in this task or thread. How many there are by now."""
        count = self.count = self.count + 1
        self.seconds += ended - started
        if count == 1:
            self.first = started
        if started >= self.last and (worker == self.worker or not self.worker):
            self.sequential += 1
        self.worker = worker
        if ended > self.last:  # noqa: PLR1730 - called for each statement, and max() takes as long as all the rest
            self.last = ended
        return count


class Middleware(NamedTuple):
    """One middleware of the app."""

    #: its class, or the function of `@app.middleware("http")`; `#2` for the second of a name
    name: str
    #: `base_http` for Starlette's `BaseHTTPMiddleware`, else `asgi`
    kind: str
    #: its `dispatch`, function or `__call__`
    call_site: CallSite | None


class Progress:
    """How far a request has come inside of the app."""

    ARRIVED: Final = 0
    #: it has reached the app's router
    ROUTED: Final = 1
    #: the router has begun its response, which middleware may still delay or replace
    ANSWERED: Final = 2


class RequestRecord:
    """One request, or one websocket connection, from its first to its last byte.

    What detectors read, once the request has ended, are the attributes; what happens meanwhile is noted by the methods.
    """

    __slots__ = (
        "_is_route_final",
        "_route",
        "budget",
        "db_seconds",
        "db_statements",
        "ended",
        "excluded",
        "findings",
        "innermost",
        "intervals",
        "loop_thread",
        "middlewares",
        "owner",
        "phase",
        "phases",
        "progress",
        "root_path",
        "router_error",
        "scope",
        "send",
        "span",
        "started",
        "statements",
        "status",
    )

    def __init__(self, owner: object, scope: MutableMapping[str, Any], span: Span, started: float) -> None:
        #: the `Signals` of the telemetry that serves this request (two apps in one process have one each)
        self.owner = owner
        #: the ASGI scope as the router sees it; middleware may have copied it on the way down
        self.scope = scope
        self.root_path: str = scope.get("root_path", "")
        self.progress: int = Progress.ARRIVED
        self.span = span
        #: `time.perf_counter()` when the request arrived
        self.started = started
        #: response status, once the response has started
        self.status: int | None = None
        #: an exception that left the router; if the response had started, it is cut short, whatever its status
        self.router_error: BaseException | None = None
        #: True for a request under an excluded URL: neither it nor its SQL is measured
        self.excluded = False
        self.db_statements = 0
        self.db_seconds = 0.0
        #: the first `MOST_STATEMENTS` different statements, by fingerprint; an `executemany` has one of its own
        self.statements: dict[str, StatementGroup] = {}
        #: `time.perf_counter()` of the last byte; 0 while the request runs
        self.ended = 0.0
        #: the thread whose event loop serves the request
        self.loop_thread = threading.get_ident()
        #: whose turn it is; see `budget`
        self.phase: int = Phase.MIDDLEWARE
        self.phases: list[Mark] = [(started, Phase.MIDDLEWARE)]
        #: the phase furthest inside that was last at work, below all middleware
        self.innermost: int = Phase.ROUTING
        #: the app's middlewares, from the outside in; number n has the phase `Phase.MIDDLEWARE + n`
        self.middlewares: tuple[Middleware, ...] = ()
        #: the ASGI `send` that was last passed inward, to know who puts one of their own around it
        self.send: object = None
        self.intervals: list[Interval] = []
        #: where the time went; None while the request runs
        self.budget: Budget | None = None
        #: the kinds of what was found, in the order in which it was
        self.findings: list[str] = []
        self._route: str | None = None
        self._is_route_final = False

    def enter(self, phase: int) -> int:
        """From now on it is this phase's turn. Returns the one before it."""
        before, self.phase = self.phase, phase
        if phase < Phase.SEND:
            self.innermost = phase
        if len(self.phases) < MOST_INTERVALS:
            self.phases.append((time.perf_counter(), phase))
        return before

    def waited(self, start: float, end: float, cause: int) -> None:
        """Something went on from `start` to `end`, by `time.perf_counter()`. From any thread."""
        if len(self.intervals) < MOST_INTERVALS:
            self.intervals.append((start, end, cause))

    def self_times(self) -> Iterator[tuple[Middleware, float]]:
        """Each of the app's middlewares, and the seconds it took itself; its own waits are in it."""
        if self.budget is not None:
            for number, middleware in enumerate(self.middlewares):
                seconds = self.budget.middleware.get(number)
                if seconds is not None:
                    yield middleware, seconds

    @property
    def seconds(self) -> float:
        """Duration, first to last byte, of a request that has ended."""
        return self.ended - self.started

    @property
    def route(self) -> str | None:
        """The route template as known so far; None before the router has run, or if no route matched.

        Computed once after the router has begun its response or the request has ended: then it can no longer change.
        """
        if not self._is_route_final:
            self._is_route_final = self.progress == Progress.ANSWERED or self.ended > 0
            self._route = route_template(self.scope, self.root_path)
        return self._route


#: The record of the request this code runs for; None outside of a request.
CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("otel_fastperf_record", default=None)
