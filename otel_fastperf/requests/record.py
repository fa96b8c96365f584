"""What is known about the current request: one mutable object per request, found through a context variable.

All tasks, threads and greenlets that work for a request share its object (they copy the *context*, not the object), so
a query in a gathered task counts for the request that started it.
"""

import threading
import time
from collections.abc import Iterator, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import Span

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.route import route_template
from otel_fastperf.requests.time_budget import Budget, Interval, Mark, Phase, Sums, added
from otel_fastperf.sql.describe import QueryText

if TYPE_CHECKING:
    from otel_fastperf.sql.orm_loads import Load

#: maximum number of intervals, and of marks, per request; the time of later ones counts for the phase before them
MOST_MARKS: Final = 20_000
MOST_INTERVALS: Final = 10_000
#: maximum number of different statements per request that are examined
MOST_STATEMENTS: Final = 256


class StatementGroup:
    """All executions of one statement in a request. Seconds are sums over them, except for `slowest`."""

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
        self.query: QueryText = query
        #: SQLAlchemy's name of the database system, and OpenTelemetry's
        self.dialect: str = dialect
        self.system: str = system
        #: name of the database
        self.namespace: str = namespace
        self.count: int = 0
        self.seconds: float = 0.0
        #: executions that began after all earlier ones had ended, in the task or thread of the previous one
        self.sequential: int = 0
        #: start of the first execution and end of the last, by `time.perf_counter()`
        self.first: float = 0.0
        self.last: float = 0.0
        #: task or thread of the last execution; 0 for the first one, for which it is not looked up
        self.worker: int = 0
        #: its purpose; None until it is repeated
        self.load: Load | None = None
        #: `[executions, seconds]` by line, for executions whose line was looked up, which are the later repeats
        self.lines: dict[CallSite | None, list[float]] = {}
        #: executions that blocked the event loop: synchronous ones on its thread
        self.loop_count: int = 0
        self.loop_seconds: float = 0.0
        #: line of the first of these
        self.call_site: CallSite | None = None
        #: executions over `slow_query`
        self.slow_count: int = 0
        self.slow_seconds: float = 0.0
        self.slowest: float = 0.0
        #: line of the slowest execution; its number of rows, or -1 if the driver does not know it
        self.slow_call_site: CallSite | None = None
        self.slow_rows: int = -1

    def add(self, started: float, ended: float, worker: int) -> int:
        """Add an execution in the task or thread `worker`, by `time.perf_counter()`. Returns the new count."""
        count = self.count = self.count + 1
        self.seconds += ended - started
        if count == 1:
            self.first = started
        if started >= self.last and (worker == self.worker or not self.worker):
            self.sequential += 1
        self.worker = worker
        if ended > self.last:  # noqa: PLR1730 - called for each statement, and max() would double its time
            self.last = ended
        return count


class Middleware(NamedTuple):
    """One middleware of the app.

    Attributes:
        name: Its class, or the function of `@app.middleware("http")`; with `#2` for the second one of a name.
        kind: `base_http` for Starlette's `BaseHTTPMiddleware`, else `asgi`.
        call_site: Its `dispatch`, function or `__call__`.
    """

    name: str
    kind: str
    call_site: CallSite | None


class Progress:
    """How far a request has come inside of the app.

    Attributes:
        ROUTED: It has reached the app's router.
        ANSWERED: The router has started its response, which middleware may still delay or replace.
    """

    ARRIVED: Final = 0
    ROUTED: Final = 1
    ANSWERED: Final = 2


class RequestRecord:
    """One request or WebSocket connection, from its first to its last byte.

    The methods note what happens while the request runs; detectors read the attributes once it has ended.
    """

    __slots__ = (
        "_is_route_final",
        "_route",
        "budget",
        "counted",
        "counted_until",
        "db_seconds",
        "db_statements",
        "ended",
        "excluded",
        "findings",
        "innermost",
        "intervals",
        "loop_thread",
        "marks",
        "middlewares",
        "owner",
        "phase",
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
        #: the `Signals` of the telemetry that serves this request; each app in the process has its own
        self.owner: object = owner
        #: the ASGI scope as the router sees it; middleware may have copied it on the way in
        self.scope: MutableMapping[str, Any] = scope
        self.root_path: str = scope.get("root_path", "")
        self.progress: int = Progress.ARRIVED
        self.span: Span = span
        #: `time.perf_counter()` when the request arrived
        self.started: float = started
        #: response status, once the response has started
        self.status: int | None = None
        #: an exception that left the router; if the response had started, it is truncated, whatever its status
        self.router_error: BaseException | None = None
        #: True for a request to an excluded URL: neither the request nor its SQL is measured
        self.excluded: bool = False
        self.db_statements: int = 0
        self.db_seconds: float = 0.0
        #: the first `MOST_STATEMENTS` different statements by fingerprint; the key of an `executemany` differs
        self.statements: dict[str, StatementGroup] = {}
        #: `time.perf_counter()` of the last byte; 0 while the request runs
        self.ended: float = 0.0
        #: the thread whose event loop serves the request
        self.loop_thread: int = threading.get_ident()
        #: the part of the app that is running; see `time_budget`
        self.phase: int = Phase.MIDDLEWARE
        #: `time.perf_counter()` and phase, in turns: plain numbers, which the garbage collector need not walk
        self.marks: list[float] = [started, Phase.MIDDLEWARE]
        #: the latest phase inside of all middleware, except `SEND`
        self.innermost: int = Phase.ROUTING
        #: the app's middlewares, from the outside in; number n has the phase `Phase.MIDDLEWARE + n`
        self.middlewares: tuple[Middleware, ...] = ()
        #: the ASGI `send` that was last passed inward, which shows whether a middleware wraps it
        self.send: object = None
        self.intervals: list[Interval] = []
        #: the time until `counted_until` by phase and cause; what is left in `marks` and `intervals` comes after it
        self.counted: Sums | None = None
        self.counted_until: float = started
        #: where the time went; None while the request runs
        self.budget: Budget | None = None
        #: the kinds of its findings, in the order of their reports
        self.findings: list[str] = []
        self._route: str | None = None
        self._is_route_final = False

    def enter(self, phase: int) -> int:
        """Start a phase. Returns the previous one."""
        before, self.phase = self.phase, phase
        if phase < Phase.SEND:
            self.innermost = phase
        marks = self.marks
        if len(marks) < MOST_MARKS:
            marks.append(time.perf_counter())
            marks.append(phase)
        return before

    @property
    def phases(self) -> list[Mark]:
        """The phases so far with their starts, oldest first; without those that are `counted`."""
        return [(at, int(phase)) for at, phase in zip(self.marks[::2], self.marks[1::2], strict=False)]

    def waited(self, start: float, end: float, cause: int) -> None:
        """Note an interval, by `time.perf_counter()`; `cause` is one of `Cause`. Safe to call from any thread."""
        if len(self.intervals) < MOST_INTERVALS:
            self.intervals.append((start, end, cause))

    def count(self, sums: Sums, until: float) -> None:
        """Replace the phases and intervals before `until`, which is the time of the last phase, by their sums."""
        self.counted = sums if self.counted is None else added(self.counted, sums)
        self.counted_until = until
        del self.marks[:-2]
        # other threads may append meanwhile
        number = len(self.intervals)
        self.intervals[:number] = [(until, end, cause) for _, end, cause in self.intervals[:number] if end > until]

    def self_times(self) -> Iterator[tuple[Middleware, float]]:
        """Each of the app's middlewares, and the seconds it took itself, including its own waits."""
        if self.budget is not None:
            for number, middleware in enumerate(self.middlewares):
                seconds = self.budget.middleware.get(number)
                if seconds is not None:
                    yield middleware, seconds

    @property
    def seconds(self) -> float:
        """Duration of a request that has ended, from its first to its last byte."""
        return self.ended - self.started

    @property
    def route(self) -> str | None:
        """The route template; None if no route matched, or if the router has not run yet.

        Cached once the router has started its response or the request has ended, since it can no longer change then.
        """
        if not self._is_route_final:
            self._is_route_final = self.progress == Progress.ANSWERED or self.ended > 0
            self._route = route_template(self.scope, self.root_path)
        return self._route


#: The record of the current request; None outside of requests.
CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("otel_fastperf_record", default=None)
