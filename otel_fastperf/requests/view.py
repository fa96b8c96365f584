"""A finished request as detectors see it: read-only, and a small part of what is recorded."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.trace import Span

from otel_fastperf.findings import CallSite
from otel_fastperf.requests.awaits import Awaited
from otel_fastperf.requests.time_budget import Budget
from otel_fastperf.sql.describe import QueryText


class StatementView(Protocol):
    """All executions of one SQL statement in one request.

    Attributes:
        query: The statement without literals and parameters: `text`, `summary`, `operation`, `collection`,
            `fingerprint`.
        dialect: SQLAlchemy's name of the database, such as `postgresql`.
        count: Number of executions.
        seconds: Their total duration.
        sequential: Number of executions that began after all earlier ones had ended, in the same task or thread.
        loop_seconds: Duration of the synchronous executions on the event loop's thread, which blocked the loop.
        slow_count: Number of executions over `database.slow_query`.
        slowest: Duration of the slowest of these, in seconds.
        call_site: The line of the first execution that blocked the loop; None if none did.
        slow_call_site: The line of the slowest execution over `database.slow_query`; None if there was none.
        lines: `[executions, seconds]` by line. A line is looked up from the third execution or so on.
    """

    @property
    def query(self) -> QueryText: ...  # noqa: D102 - see the class
    @property
    def dialect(self) -> str: ...  # noqa: D102
    @property
    def count(self) -> int: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def sequential(self) -> int: ...  # noqa: D102
    @property
    def loop_seconds(self) -> float: ...  # noqa: D102
    @property
    def slow_count(self) -> int: ...  # noqa: D102
    @property
    def slowest(self) -> float: ...  # noqa: D102
    @property
    def call_site(self) -> CallSite | None: ...  # noqa: D102
    @property
    def slow_call_site(self) -> CallSite | None: ...  # noqa: D102
    @property
    def lines(self) -> Mapping[CallSite | None, Sequence[float]]: ...  # noqa: D102


class RequestView(Protocol):
    """One finished request. Read it while the detector runs; do not keep it, and change nothing in it.

    Attributes:
        method: The method: `_OTHER` if it is not one of `requests.known_methods`, `WS` for a WebSocket.
        scope: The ASGI scope that the router saw: `method`, `path`, `headers`, `type` and so on.
        route: The route template, such as `/items/{item_id}`; None if no route matched.
        status: The response status; None if no response was started.
        started: When the request arrived, by `time.perf_counter()`.
        seconds: Duration from arrival to the last byte of the response.
        db_statements: Number of SQL statements.
        db_seconds: Their total duration.
        statements: The SQL statements by fingerprint, the first 256 different ones.
        awaited: Seconds by what it awaited and at which line, estimated from samples; empty for a request that is
            shorter than `awaiting.after`.
        budget: `budget.segments` maps each segment of the time budget to its seconds. None for websockets.
        span: The SERVER span, which still takes attributes and events.
    """

    @property
    def method(self) -> str: ...  # noqa: D102 - see the class
    @property
    def scope(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def route(self) -> str | None: ...  # noqa: D102
    @property
    def status(self) -> int | None: ...  # noqa: D102
    @property
    def started(self) -> float: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def db_statements(self) -> int: ...  # noqa: D102
    @property
    def db_seconds(self) -> float: ...  # noqa: D102
    @property
    def statements(self) -> Mapping[str, StatementView]: ...  # noqa: D102
    @property
    def awaited(self) -> Mapping[Awaited, float]: ...  # noqa: D102
    @property
    def budget(self) -> Budget | None: ...  # noqa: D102
    @property
    def span(self) -> Span: ...  # noqa: D102
