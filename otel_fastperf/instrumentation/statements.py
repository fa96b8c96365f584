"""SQL statements: one CLIENT span each, one duration, and one count on the record of the request that ran it.

    before_cursor_execute   notes the time on SQLAlchemy's execution context
    after_cursor_execute    ┐ span with start and end given, duration histogram, request record
    handle_error            ┘ the same, as failed; a cancelled statement comes here too

The listeners stand on the `Engine` class, so they see engines made before and after, and async ones, whose statements
run in a greenlet that shares the task's context. Listeners of a class run before those of one engine, so the statement
is taken as the application wrote it, before a listener that adds comments made each one unique.

What detectors look at is gathered on the record: equal statements of a request in a `StatementGroup`, each statement as
an interval of the time budget. The line that ran a statement costs as much as all the rest, so it is looked up only
where something may be wrong: from the third repeat or so, over the threshold, and on the event loop's thread.

Attributes: https://opentelemetry.io/docs/specs/semconv/db/database-spans/, the stable ones only. `error.type` is the
database's code where there is one (SQLSTATE, `SQLITE_CONSTRAINT_UNIQUE`, MySQL's number), else the exception's type.
The exception itself is on the SERVER span; the conventions have none on CLIENT spans.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.semconv.attributes.code_attributes import CODE_FILE_PATH, CODE_FUNCTION_NAME, CODE_LINE_NUMBER
from opentelemetry.semconv.attributes.db_attributes import (
    DB_COLLECTION_NAME,
    DB_NAMESPACE,
    DB_OPERATION_BATCH_SIZE,
    DB_OPERATION_NAME,
    DB_QUERY_SUMMARY,
    DB_QUERY_TEXT,
    DB_RESPONSE_STATUS_CODE,
    DB_SYSTEM_NAME,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.engine import URL, ExceptionContext, ExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor, ExecuteStyle

from otel_fastperf.findings import CallSite
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.redaction import describe_error, error_type
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.requests.record import CURRENT, MOST_STATEMENTS, RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.describe import QueryText, QueryTexts
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, OTHER, load_of

if TYPE_CHECKING:
    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/db/#db-system-name
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
#: where drivers, and SQLAlchemy's adapters of async ones, keep the database's own code; psycopg2 says `pgcode`
_CODES: Final = ("sqlstate", "pgcode", "sqlite_errorname")
#: systems whose drivers raise `(1062, "Duplicate entry …")`
_NUMBERED: Final = ("mysql", "mariadb")
_STATEMENT: Final = "_fastperf_statement"
#: where opentelemetry-instrumentation-sqlalchemy keeps its span, if it watches the engine too
_CONTRIB_SPAN: Final = "_otel_span"


#: seconds between two exemplars, but a statement that takes this long always is one
_EXEMPLAR_PAUSE: Final = 0.1
_ALWAYS_EXEMPLARY: Final = 0.1

#: repeats of a statement whose line is looked up; those after them are taken for the same
_MOST_LOOK_UPS: Final = 100
#: the operations that read or write rows
_REPEATABLE: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "CALL", "EXECUTE"})


@contextmanager
def instrument_database(
    engines: "Sequence[Engine | AsyncEngine] | None",
    settings: DatabaseSettings,
    signals: Signals,
    *,
    exemplars: bool = True,
    on_slow: Callable[[SlowStatement], None] | None = None,
) -> Iterator[None]:
    """Observe the statements of `engines`, or of every engine of the process if None, until the end of the block.

    Of several telemetries in one process, one observes a statement: the one that serves the request, and outside of a
    request the one that was set up first. With `exemplars` the duration carries the ids of a sampled span. `on_slow` is
    called with each statement over the threshold, where it was run: on the event loop as a rule.
    """
    observer = _Observer(engines, settings, signals, exemplars=exemplars, on_slow=on_slow)
    listeners = (
        ("before_cursor_execute", observer.before),
        ("after_cursor_execute", observer.after),
        ("handle_error", observer.failed),
    )
    with ExitStack() as stack:
        for name, listener in listeners:
            event.listen(Engine, name, listener)
            stack.callback(event.remove, Engine, name, listener)
        yield


class _Statement:
    """A statement that runs. Parked on its execution context, which marks it as observed."""

    __slots__ = ("batch_size", "many", "observer", "record", "started", "started_ns", "text")

    def __init__(
        self,
        observer: "_Observer",
        record: RequestRecord | None,
        text: str,
        batch_size: int,
        many: bool,  # noqa: FBT001 - called for each statement
    ) -> None:
        self.observer = observer
        self.record = record
        self.text = text
        #: `executemany`, or a batch of insertmanyvalues
        self.many = many
        #: parameter sets of `executemany`; 0 for one execution
        self.batch_size = batch_size
        # when it began by the wall clock, how long it took by one that is never set
        self.started_ns = time.time_ns()
        self.started = time.perf_counter()


class _Database:
    """What is the same for all statements of an engine."""

    __slots__ = ("attributes", "dialect", "is_async", "namespace", "system")

    def __init__(self, dialect: Dialect, url: URL) -> None:
        self.dialect = dialect.name
        self.is_async = dialect.is_async
        is_mariadb = getattr(dialect, "is_mariadb", False)
        self.system = "mariadb" if is_mariadb else _SYSTEMS.get(dialect.name, dialect.name)
        self.namespace = url.database or (":memory:" if dialect.name == "sqlite" else "")
        self.attributes: dict[str, AttributeValue] = {DB_SYSTEM_NAME: self.system}
        # libpq takes the host, or the directory of the Unix socket, in the query too
        address = url.host or url.query.get("host")
        optional = ((DB_NAMESPACE, self.namespace), (SERVER_ADDRESS, address), (SERVER_PORT, url.port))
        self.attributes |= {name: value for name, value in optional if value}


class _Observer:
    """The listeners of one telemetry. Nothing that fails in them reaches SQLAlchemy."""

    def __init__(
        self,
        engines: "Sequence[Engine | AsyncEngine] | None",
        settings: DatabaseSettings,
        signals: Signals,
        *,
        exemplars: bool,
        on_slow: Callable[[SlowStatement], None] | None,
    ) -> None:
        # an engine's `execution_options()` gives an engine with the same dialect, and is meant with it
        self._dialects = None if engines is None else {engine.dialect for engine in engines}
        self._signals = signals
        self._query_text = settings.query_text
        self._exemplars = exemplars
        self._next_exemplar = 0.0
        self._slow_query = settings.slow_query
        self._on_slow = on_slow
        # looking up the lines of half of the repeats is enough to know that they are one
        self._looks_up_from = max(2, settings.n_plus_one // 2)
        self._queries = QueryTexts(max_length=settings.query_text_length)
        self._databases: WeakKeyDictionary[Dialect, _Database] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def before(
        self,
        connection: Connection,
        _cursor: DBAPICursor,
        text: str,
        parameters: Any,
        execution: ExecutionContext,
        executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> None:
        """`before_cursor_execute`: claim the statement, and take the time last."""
        try:
            record = CURRENT.get()
            if not self._observes(connection.dialect, record, execution):
                return
            batch_size = 0
            if executemany:
                text, batch_size = _batch(text, parameters, execution)
            setattr(execution, _STATEMENT, _Statement(self, record, text, batch_size, executemany))
        except Exception as error:  # noqa: BLE001 - telemetry fails no statement
            self._signals.guard.failed("database", error)

    def after(
        self,
        _connection: Connection,
        _cursor: DBAPICursor,
        text: str,
        parameters: Any,
        execution: ExecutionContext,
        _executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> None:
        """`after_cursor_execute`: the statement has succeeded; its rows may still be on the way."""
        self._finish(execution, text, parameters, None)

    def failed(self, failure: ExceptionContext) -> None:
        """`handle_error`: the statement failed or was cancelled. Errors of connecting have no statement."""
        if failure.execution_context is not None:
            self._finish(failure.execution_context, failure.statement or "", failure.parameters, failure)

    def _observes(self, dialect: Dialect, record: RequestRecord | None, execution: ExecutionContext) -> bool:
        """True if this statement is ours to observe."""
        if self._dialects is not None and dialect not in self._dialects:
            return False
        if record is None:
            if getattr(execution, _STATEMENT, None) is not None:
                return False
        elif record.excluded or record.owner is not self._signals:
            return False
        return is_instrumentation_enabled()

    def _finish(
        self, execution: ExecutionContext, text: str, parameters: Any, failure: ExceptionContext | None
    ) -> None:
        try:
            # an execution context runs several statements one after the other: defaults, batches of insertmanyvalues
            statement: _Statement | None = getattr(execution, _STATEMENT, None)
            if statement is None or statement.observer is not self:
                return
            ended = time.perf_counter()
            setattr(execution, _STATEMENT, None)
            seconds = ended - statement.started
            database = self._database(execution)
            slow = seconds >= self._slow_query and self._took(statement, database, ended) >= self._slow_query
            query = self._queries.describe(statement.text, database.dialect, batch=statement.batch_size > 1)
            site = self._record(statement, execution, database, query, ended, slow=slow)
            span = self._signal(statement, execution, database, query, seconds, failure, site)
            if slow and not statement.many and self._on_slow is not None:
                self._on_slow(
                    SlowStatement(
                        engine=execution.engine,
                        text=text,
                        parameters=parameters,
                        dialect=database.dialect,
                        fingerprint=query.fingerprint,
                        summary=query.summary,
                        seconds=seconds,
                        record=statement.record,
                        span=span,
                    )
                )
        except Exception as error:  # noqa: BLE001 - telemetry fails no statement
            self._signals.guard.failed("database", error)

    def _took(self, statement: _Statement, database: _Database, ended: float) -> float:
        """Seconds that a statement took, without those in which its answer lay there and the event loop was held."""
        seconds = ended - statement.started
        if not database.is_async:
            return seconds
        obstacles = self._signals.obstacles
        if statement.record is not None and statement.record.loop_thread == threading.get_ident():
            obstacles.settle()
        return seconds - obstacles.held(statement.started, ended)

    def _record(
        self,
        statement: _Statement,
        execution: ExecutionContext,
        database: _Database,
        query: QueryText,
        ended: float,
        *,
        slow: bool,
    ) -> CallSite | None:
        """Note the statement on its record. The line that ran it, where the span has to say it."""
        record, started = statement.record, statement.started
        try:
            # what background tasks run is no part of the request, which has ended
            if record is None or record.ended:
                return call_site(sys._getframe()) if slow else None  # noqa: SLF001 - there is no other way to a frame
            record.waited(started, ended, Cause.DB)
            on_loop = not database.is_async and _holds_loop(record)
            wanted = slow or on_loop or not statement.many
            group = self._group(record, statement, database, query) if wanted else None
            worker = _worker(record) if group is not None and group.count else 0
            repeats = 0
            # a request may run statements in several threads, and `+=` is atomic by accident only
            with self._lock:
                record.db_statements += 1
                record.db_seconds += ended - started
                if group is not None:
                    repeats = group.add(started, ended, worker)
            if group is None or not (slow or on_loop or repeats >= self._looks_up_from):
                return None
            return self._look_up(group, execution, ended - started, slow=slow, on_loop=on_loop)
        except Exception as error:  # noqa: BLE001 - it costs the evidence, not the span
            self._signals.guard.failed("database", error)
            return None

    def _group(
        self, record: RequestRecord, statement: _Statement, database: _Database, query: QueryText
    ) -> StatementGroup | None:
        key = f"{query.fingerprint} many" if statement.many else query.fingerprint
        group = record.statements.get(key)
        if group is None and len(record.statements) < MOST_STATEMENTS:
            new = StatementGroup(query, database.dialect, database.system, database.namespace)
            group = record.statements.setdefault(key, new)
            if statement.many or query.operation not in _REPEATABLE:
                group.load = OTHER
        return group

    def _look_up(
        self, group: StatementGroup, execution: ExecutionContext, seconds: float, *, slow: bool, on_loop: bool
    ) -> CallSite | None:
        """What is wrong, or may be: find the line, and note what it ran. Races of threads cost a repeat at most."""
        repeats = group.count
        if group.load is None and repeats >= self._looks_up_from:
            group.load = load_of(execution)
        repeated = group.load is not None and group.load.kind in ONE_BY_ONE and repeats < _MOST_LOOK_UPS
        site = None
        if slow or repeated or (on_loop and not group.loop_count):
            site = call_site(sys._getframe())  # noqa: SLF001 - there is no other way to a frame
        # the spans of its further repeats would say the same, at a tenth of what a statement's telemetry costs
        told = slow or on_loop or site not in group.lines
        if repeated:
            line = group.lines.setdefault(site, [0, 0.0])
            line[0] += 1
            line[1] += seconds
        if on_loop:
            group.call_site = group.call_site if group.loop_count else site
            group.loop_count += 1
            group.loop_seconds += seconds
        if slow:
            group.slow_count += 1
            group.slow_seconds += seconds
            if seconds > group.slowest:
                group.slowest, group.slow_call_site = seconds, site
                group.slow_rows = _rows(execution)
        return site if told else None

    def _signal(
        self,
        statement: _Statement,
        execution: ExecutionContext,
        database: _Database,
        query: QueryText,
        seconds: float,
        failure: ExceptionContext | None,
        site: CallSite | None,
    ) -> Span | None:
        """Span and duration. The span, if one could be made."""
        code = kind = ""
        if failure is not None:
            code = _status_code(failure.original_exception, database.system)
            kind = code or error_type(failure.original_exception)
        exemplar = span = None
        try:
            attributes = self._attributes(database, query, statement.batch_size, code, kind, site)
            name = query.summary or database.namespace or database.system
            span = self._trace(statement, execution, name, attributes, seconds, failure)
            exemplar = self._exemplar(span, statement.started, seconds)
        except Exception as error:  # noqa: BLE001 - a sampler or processor that fails costs the span, not the metric
            self._signals.guard.failed("database", error)
        duration = self._signals.metrics.db_operation_duration
        duration.child(database.system, database.namespace, query.operation, kind).observe(seconds, exemplar)
        return span

    def _database(self, execution: ExecutionContext) -> _Database:
        database = self._databases.get(execution.dialect)
        if database is None:
            database = self._databases[execution.dialect] = _Database(execution.dialect, execution.engine.url)
        return database

    def _attributes(
        self, database: _Database, query: QueryText, batch_size: int, code: str, kind: str, site: CallSite | None
    ) -> dict[str, AttributeValue]:
        attributes = {**database.attributes, DB_OPERATION_NAME: query.operation}
        if query.summary:
            attributes[DB_QUERY_SUMMARY] = query.summary
        if query.collection:
            attributes[DB_COLLECTION_NAME] = query.collection
        if self._query_text:
            attributes[DB_QUERY_TEXT] = query.text
        if batch_size > 1:
            attributes[DB_OPERATION_BATCH_SIZE] = batch_size
        if code:
            attributes[DB_RESPONSE_STATUS_CODE] = code
        if kind:
            attributes[ERROR_TYPE] = kind
        if site is not None:
            attributes[CODE_FILE_PATH] = site.file
            attributes[CODE_LINE_NUMBER] = site.line
            attributes[CODE_FUNCTION_NAME] = site.function
        return attributes

    def _trace(
        self,
        statement: _Statement,
        execution: ExecutionContext,
        name: str,
        attributes: dict[str, AttributeValue],
        seconds: float,
        failure: ExceptionContext | None,
    ) -> Span:
        """Put the statement on contrib's span if it made one, else on one of our own."""
        span: Span | None = getattr(execution, _CONTRIB_SPAN, None)
        if span is not None and span.get_span_context().is_valid:
            span.set_attributes(attributes)
        else:
            span = self._signals.tracer.start_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, start_time=statement.started_ns
            )
            if failure is not None and span.is_recording():
                span.set_status(Status(StatusCode.ERROR, _description(failure)))
            span.end(statement.started_ns + int(seconds * 1e9))
        return span

    def _exemplar(self, span: Span, started: float, seconds: float) -> dict[str, str] | None:
        # Prometheus keeps one a series and scrape, and one costs 7 us, a tenth of what a statement's telemetry costs
        if not self._exemplars or (seconds < _ALWAYS_EXEMPLARY and started < self._next_exemplar):
            return None
        self._next_exemplar = started + _EXEMPLAR_PAUSE
        return exemplar_of(span)


def _batch(text: str, parameters: Any, execution: ExecutionContext) -> tuple[str, int]:
    """Text and number of parameter sets of an `executemany`.

    "insertmanyvalues" is one INSERT with many rows, not a batch as the conventions define it; its text has as many
    placeholders as rows, so the one for a single row stands for it.
    """
    if execution.execute_style is ExecuteStyle.INSERTMANYVALUES:
        return execution.statement or text, 0
    return text, len(parameters)


def _holds_loop(record: RequestRecord) -> bool:
    """True where a synchronous statement stops the event loop of its request.

    Its thread is the loop's, and no greenlet lies between them: under gevent, and in greenlets that lead back to an
    event loop, a driver may be one that gives way.
    """
    if threading.get_ident() != record.loop_thread:
        return False
    greenlet = sys.modules.get("greenlet")
    return greenlet is None or greenlet.getcurrent().parent is None


def _rows(execution: ExecutionContext) -> int:
    """Rows that the statement read or changed, where the driver has counted them: else -1."""
    try:
        return int(execution.cursor.rowcount)
    except Exception:  # noqa: BLE001 - a driver's cursor that is closed, or none
        return -1


def _worker(record: RequestRecord) -> int:
    """Identifies the task or the thread that runs, among those of a request that are alive."""
    thread = threading.get_ident()
    if thread != record.loop_thread:
        return thread
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # the loop is none of asyncio's
        return thread


def _status_code(error: BaseException, system: str) -> str:
    """The database's own code of an error; `""` if it has none."""
    if system in _NUMBERED:
        number = error.args[0] if error.args else None
        return str(number) if isinstance(number, int) else ""
    for name in _CODES:
        code = getattr(error, name, None)
        if isinstance(code, str):
            return code
    return ""


def _description(failure: ExceptionContext) -> str:
    """The message without values. SQLAlchemy's own exception knows the parameters, so they are found in it."""
    return describe_error(failure.sqlalchemy_exception or failure.original_exception).message
