"""What is known about the current request: one mutable object per request, found through a context variable.

All tasks, threads and greenlets that work for a request share its object (they copy the *context*, not the object), so
a query in a gathered task counts for the request that started it.
"""

import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.trace import Span

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.awaits import NOTHING_AWAITED, Awaited, Awaits
from otel_fastperf.requests.route import NO_ROUTE, UNMATCHED, Route, route_template
from otel_fastperf.requests.time_budget import Budget, Cause, Interval, Mark, Phase, Sums, added
from otel_fastperf.sql.describe import QueryText
from otel_fastperf.sql.look_ups import LookUp

if TYPE_CHECKING:
    from otel_fastperf.requests.calls import RequestCalls
    from otel_fastperf.requests.locks import LockWait
    from otel_fastperf.sql.orm_loads import Load

#: maximum number of intervals per request; the time of later ones counts for the phase that they lie in
MOST_INTERVALS: Final = 10_000
#: seconds; in a shorter interval no block of the event loop can have ended, whose victims their marks show
_SHORT: Final = 0.01
#: maximum number of different statements per request that are examined
MOST_STATEMENTS: Final = 256

_UNKNOWN: Final = LookUp()


class BlockedCaller(NamedTuple):
    """The coroutine that called code which blocked the event loop.

    Attributes:
        site: Its line.
        by_framework: The framework called it: it is an endpoint, a dependency or a middleware.
        phase: The part of the app that ran.
    """

    site: CallSite
    by_framework: bool
    phase: int


class StatementGroup:
    """All executions of one statement in a request.

    Seconds are sums over them, except for `slowest` and `longest`, and leave out pauses of the garbage collector.
    """

    __slots__ = (
        "call_site",
        "caller",
        "count",
        "dialect",
        "first",
        "last",
        "lines",
        "load",
        "lock_site",
        "lock_waits",
        "long_call_site",
        "longest",
        "loop",
        "loop_count",
        "loop_seconds",
        "namespace",
        "query",
        "rows",
        "rows_class",
        "rows_site",
        "seconds",
        "sequential",
        "slow_call_site",
        "slow_count",
        "slow_look_up",
        "slow_rows",
        "slow_seconds",
        "slowest",
        "system",
        "values",
        "waited_for_lock",
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
        #: the application's line that repeats it, by a loop or by parallel tasks; None if none was seen
        self.loop: CallSite | None = None
        #: hash of the values of the repeats whose line was looked up, if all had the same; 0 if not, None at first
        self.values: int | None = None
        #: executions that blocked the event loop: synchronous ones on its thread
        self.loop_count: int = 0
        self.loop_seconds: float = 0.0
        #: line of the first of these, and the coroutine that it blocked
        self.call_site: CallSite | None = None
        self.caller: BlockedCaller | None = None
        #: rows of executions that returned at least `large_result`; the class of their instances; the line of the first
        self.rows: int = 0
        self.rows_class: str = ""
        self.rows_site: CallSite | None = None
        #: executions over `slow_query`
        self.slow_count: int = 0
        self.slow_seconds: float = 0.0
        self.slowest: float = 0.0
        #: line of the slowest execution
        self.slow_call_site: CallSite | None = None
        #: the longest execution of at least `frequent_query` seconds: its duration, its line, its number of rows (-1 if
        #: the driver does not know it), and how it looked them up
        self.longest: float = 0.0
        self.long_call_site: CallSite | None = None
        self.slow_rows: int = -1
        self.slow_look_up: LookUp = _UNKNOWN
        #: executions that may have waited for a lock, the first `MOST_WAITS`, and the line of the latest
        self.lock_waits: list[LockWait] = []
        self.lock_site: CallSite | None = None
        #: a lock explains its slow executions, and a finding says so
        self.waited_for_lock: bool = False

    def add(self, started: float, ended: float, worker: int, seconds: float) -> int:
        """Add an execution in the task or thread `worker`, by `time.perf_counter()`. Returns the new count."""
        count = self.count = self.count + 1
        self.seconds += seconds
        if count == 1:
            self.first = started
        if started >= self.last and (worker == self.worker or not self.worker):
            self.sequential += 1
        self.worker = worker
        if ended > self.last:  # noqa: PLR1730 - called for each statement, and max() would double its time
            self.last = ended
        return count


class TransactionEnds:
    """The COMMITs and ROLLBACKs of a request that took time. Seconds leave out delays of the process."""

    __slots__ = ("commit_seconds", "commits", "lines", "slowest", "slowest_operation", "slowest_site")

    def __init__(self) -> None:
        self.commits: int = 0
        self.commit_seconds: float = 0.0
        #: `[COMMITs, seconds]` by line, for those whose line was looked up
        self.lines: dict[CallSite | None, list[float]] = {}
        self.slowest: float = 0.0
        self.slowest_operation: str = ""
        #: its line, if it was looked up
        self.slowest_site: CallSite | None = None

    def add(self, operation: str, seconds: float, site: "CallSite | None", *, counts: bool) -> None:
        """Add the end of a transaction, which `counts` if it is a COMMIT. Two threads may race, at the cost of one."""
        if counts:
            self.commits += 1
            self.commit_seconds += seconds
            if site is not None:
                line = self.lines.setdefault(site, [0, 0.0])
                line[0] += 1
                line[1] += seconds
        if seconds > self.slowest:
            self.slowest, self.slowest_operation, self.slowest_site = seconds, operation, site


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
        "__weakref__",
        "_is_route_final",
        "_route",
        "awaiting",
        "awaits",
        "background_tasks",
        "budget",
        "calls",
        "counted",
        "counted_until",
        "db_seconds",
        "db_statements",
        "driven",
        "ended",
        "excluded",
        "findings",
        "innermost",
        "intervals",
        "is_over",
        "loop_thread",
        "marks",
        "method",
        "middlewares",
        "nested",
        "operation",
        "outermost",
        "outside",
        "owner",
        "phase",
        "progress",
        "root_path",
        "router_error",
        "scope",
        "send",
        "span",
        "started",
        "starved",
        "statements",
        "status",
        "suspended",
        "transaction_ends",
    )

    def __init__(self, owner: object, scope: MutableMapping[str, Any], span: Span, started: float) -> None:
        #: the `Signals` of the telemetry that serves this request; each app in the process has its own
        self.owner: object = owner
        #: the ASGI scope as the router sees it; middleware may have copied it on the way in
        self.scope: MutableMapping[str, Any] = scope
        self.root_path: str = scope.get("root_path", "")
        #: `_OTHER` for an unknown method, `WS` for a WebSocket
        self.method: str = ""
        #: of GraphQL, if routes are to have it
        self.operation: str = ""
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
        #: True once the app has returned, background tasks and all: what goes on in its context is another's work
        self.is_over: bool = False
        #: background tasks that are running; they begin when the response has been sent
        self.background_tasks: int = 0
        self.db_statements: int = 0
        self.db_seconds: float = 0.0
        #: None until one takes time
        self.transaction_ends: TransactionEnds | None = None
        #: the first `MOST_STATEMENTS` different statements by fingerprint; the key of an `executemany` differs
        self.statements: dict[str, StatementGroup] = {}
        #: its calls to other services; None until there is one
        self.calls: RequestCalls | None = None
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
        #: seconds in which the machine did not run it, see `Starvation`; 0 for a request that is not slow
        self.starved: float = 0.0
        #: what it awaits, as samples tell; None for a request that is not slow
        self.awaits: Awaits | None = None
        #: the kinds of its findings, in the order of their reports
        self.findings: list[str] = []
        #: the coroutine of the request, or the part of it that runs in the innermost task, to walk its await chain:
        #: the generator around it, which notes when it is suspended, hides it from `cr_await`. None for websockets and
        #: excluded requests, and once it has ended
        self.driven: Coroutine[Any, Any, object] | None = None
        #: the one that is driven in the request's own task
        self.outermost: Coroutine[Any, Any, object] | None = None
        #: `AWAITING` while all its driven coroutines are suspended, and the phase in which the innermost one is
        self.suspended: int = 0
        self.awaiting: int = 0
        #: the same for an outer one that awaits something else than the inner ones; 0 if there is none
        self.outside: int = 0
        #: the tasks inside of the request's own, from the outside in: the phase in which each started
        self.nested: tuple[int, ...] = ()
        self._route: str | None = None
        self._is_route_final = False

    def enter(self, phase: int) -> int:
        """Start a phase. Returns the previous one."""
        before, self.phase = self.phase, phase
        if phase < Phase.SEND:
            self.innermost = phase
        # a task that nobody drives may send while the others are suspended
        self.marks += time.perf_counter(), phase | self.suspended
        return before

    @property
    def phases(self) -> list[Mark]:
        """The phases so far with their starts, oldest first; without those that are `counted`."""
        # phases are integers among the floats
        return list(zip(self.marks[::2], self.marks[1::2], strict=False))  # type: ignore[arg-type]

    def waited(self, start: float, end: float, cause: int) -> None:
        """Note an interval, by `time.perf_counter()`; `cause` is one of `Cause`. Safe to call from any thread."""
        if len(self.intervals) < MOST_INTERVALS:
            self.intervals.append((start, end, cause))
            if end - start < _SHORT and cause < Cause.IN_THREAD and threading.get_ident() == self.loop_thread:
                self._forget_covered(start, end)

    def _forget_covered(self, start: float, end: float) -> None:
        """Drop the marks inside of an interval, which takes precedence over them, except for the last one.

        A statement of an async driver suspends its coroutine several times, and its marks would outnumber all others.
        """
        marks = self.marks
        if marks[-2] > end:
            return
        first = len(marks) - 2
        while first > 2 and marks[first - 2] >= start:  # noqa: PLR2004 - the first mark is the start of the request
            first -= 2
        del marks[first:-2]

    def count(self, sums: Sums, until: float, number: int) -> None:
        """Replace the first marks, `number` entries of the list, and the intervals before `until` by their sums."""
        self.counted = sums if self.counted is None else added(self.counted, sums)
        self.counted_until = until
        del self.marks[:number]
        # other threads may append meanwhile
        there = len(self.intervals)
        self.intervals[:there] = [
            (max(start, until), end, cause) for start, end, cause in self.intervals[:there] if end > until
        ]

    def self_times(self) -> Iterator[tuple[Middleware, float]]:
        """Each of the app's middlewares, and the seconds it took itself, including its own waits."""
        if self.budget is not None:
            for number, middleware in enumerate(self.middlewares):
                seconds = self.budget.middleware.get(number)
                if seconds is not None:
                    yield middleware, seconds

    @property
    def awaited(self) -> Mapping[Awaited, float]:
        """Seconds by what a slow request awaited and at which line, estimated from samples; empty for others."""
        return NOTHING_AWAITED if self.awaits is None else self.awaits.seconds

    @property
    def has_large_result(self) -> bool:
        """True if a statement returned at least `large_result` rows."""
        return any(group.rows for group in tuple(self.statements.values()))

    def works_on_rows(self, site: CallSite | None) -> bool:
        """True if code at this line works on the rows of such a statement; without a line, it serializes them."""
        places = [group.rows_site for group in tuple(self.statements.values()) if group.rows]
        if site is None:
            return bool(places)
        return any(place and (place.file, place.function) == (site.file, site.function) for place in places)

    @property
    def seconds(self) -> float:
        """Duration of a request that has ended, from its first to its last byte."""
        return self.ended - self.started

    @property
    def own_seconds(self) -> float:
        """The same on a machine with enough processors: what is judged without delays is compared with this."""
        return self.ended - self.started - self.starved

    @property
    def route(self) -> str | None:
        """The route template; None if no route matched, or if the router has not run yet.

        Cached once the router has started its response or the request has ended, since it can no longer change then.
        """
        if not self._is_route_final:
            has_left = self.router_error is not None or self.ended > 0
            self._is_route_final = has_left or self.progress == Progress.ANSWERED
            template = route_template(self.scope, self.root_path)
            self._route = f"{template} {self.operation}" if self.operation and template else template
        return self._route

    @property
    def route_key(self) -> Route:
        """Method and template. `NO_ROUTE` in middleware on the way in, which is the same for all routes."""
        template = self.route
        if template is not None:
            return Route(self.method, template)
        return Route(self.method, UNMATCHED) if self._is_route_final else NO_ROUTE


def route_of(record: RequestRecord | None) -> Route:
    """The route that code runs for; `NO_ROUTE` outside of requests."""
    return NO_ROUTE if record is None else record.route_key


#: The record of the current request; None outside of requests.
CURRENT: Final[ContextVar[RequestRecord | None]] = ContextVar("otel_fastperf_record", default=None)


def current_record() -> RequestRecord | None:
    """The record of the current request; None outside of requests, and in a task that has outlived its request."""
    record = CURRENT.get()
    return None if record is None or record.is_over else record
