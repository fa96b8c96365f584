"""SQL statements: one CLIENT span each, one duration, and one count on the record of the request that ran it.

    before_cursor_execute   notes the time on SQLAlchemy's execution context
    after_cursor_execute    ┐ span with start and end given, duration histogram, request record
    handle_error            ┘ the same, as failed; a cancelled statement comes here too

The listeners stand on the `Engine` class, so they see engines made before and after, and async ones, whose statements
run in a greenlet that shares the task's context. Listeners of a class run before those of one engine, so the statement
is taken as the application wrote it, before a listener that adds comments made each one unique.

Attributes: https://opentelemetry.io/docs/specs/semconv/db/database-spans/, the stable ones only. `error.type` is the
database's code where there is one (SQLSTATE, `SQLITE_CONSTRAINT_UNIQUE`, MySQL's number), else the exception's type.
The exception itself is on the SERVER span; the conventions have none on CLIENT spans.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
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

from otel_fastperf.record import CURRENT, RequestRecord
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.spans import exemplar_of
from otel_fastperf.sql import QueryText, QueryTexts
from otel_fastperf.text import describe_error, error_type

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


@contextmanager
def instrument_database(
    engines: "Sequence[Engine | AsyncEngine] | None",
    settings: DatabaseSettings,
    signals: Signals,
    *,
    exemplars: bool = True,
) -> Iterator[None]:
    """Observe the statements of `engines`, or of every engine of the process if None, until the end of the block.

    Of several telemetries in one process, one observes a statement: the one that serves the request, and outside of a
    request the one that was set up first. With `exemplars` the duration carries the ids of a sampled span.
    """
    observer = _Observer(engines, settings, signals, exemplars=exemplars)
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

    __slots__ = ("batch_size", "observer", "record", "started", "started_ns", "text")

    def __init__(self, observer: "_Observer", record: RequestRecord | None, text: str, batch_size: int) -> None:
        self.observer = observer
        self.record = record
        self.text = text
        #: parameter sets of `executemany`; 0 for one execution
        self.batch_size = batch_size
        # when it began by the wall clock, how long it took by one that is never set
        self.started_ns = time.time_ns()
        self.started = time.perf_counter()


class _Database:
    """What is the same for all statements of an engine."""

    __slots__ = ("attributes", "dialect", "namespace", "system")

    def __init__(self, dialect: Dialect, url: URL) -> None:
        self.dialect = dialect.name
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
    ) -> None:
        # an engine's `execution_options()` gives an engine with the same dialect, and is meant with it
        self._dialects = None if engines is None else {engine.dialect for engine in engines}
        self._signals = signals
        self._query_text = settings.query_text
        self._exemplars = exemplars
        self._next_exemplar = 0.0
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
            setattr(execution, _STATEMENT, _Statement(self, record, text, batch_size))
        except Exception as error:  # noqa: BLE001 - telemetry fails no statement
            self._signals.guard.failed("database", error)

    def after(
        self,
        _connection: Connection,
        _cursor: DBAPICursor,
        _text: str,
        _parameters: Any,
        execution: ExecutionContext,
        _executemany: bool,  # noqa: FBT001 - SQLAlchemy's signature
    ) -> None:
        """`after_cursor_execute`: the statement has succeeded; its rows may still be on the way."""
        self._finish(execution, None)

    def failed(self, failure: ExceptionContext) -> None:
        """`handle_error`: the statement failed or was cancelled. Errors of connecting have no statement."""
        if failure.execution_context is not None:
            self._finish(failure.execution_context, failure)

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

    def _finish(self, execution: ExecutionContext, failure: ExceptionContext | None) -> None:
        try:
            # an execution context runs several statements one after the other: defaults, batches of insertmanyvalues
            statement: _Statement | None = getattr(execution, _STATEMENT, None)
            if statement is None or statement.observer is not self:
                return
            seconds = time.perf_counter() - statement.started
            setattr(execution, _STATEMENT, None)
            self._record(statement.record, seconds)
            self._signal(statement, execution, seconds, failure)
        except Exception as error:  # noqa: BLE001 - telemetry fails no statement
            self._signals.guard.failed("database", error)

    def _record(self, record: RequestRecord | None, seconds: float) -> None:
        if record is not None:
            # a request may run statements in several threads, and `+=` is atomic by accident only
            with self._lock:
                record.db_statements += 1
                record.db_seconds += seconds

    def _signal(
        self, statement: _Statement, execution: ExecutionContext, seconds: float, failure: ExceptionContext | None
    ) -> None:
        database = self._database(execution)
        query = self._queries.describe(statement.text, database.dialect, batch=statement.batch_size > 1)
        code = kind = ""
        if failure is not None:
            code = _status_code(failure.original_exception, database.system)
            kind = code or error_type(failure.original_exception)
        exemplar = None
        try:
            attributes = self._attributes(database, query, statement.batch_size, code, kind)
            name = query.summary or database.namespace or database.system
            exemplar = self._trace(statement, execution, name, attributes, seconds, failure)
        except Exception as error:  # noqa: BLE001 - a sampler or processor that fails costs the span, not the metric
            self._signals.guard.failed("database", error)
        duration = self._signals.metrics.db_operation_duration
        duration.child(database.system, database.namespace, query.operation, kind).observe(seconds, exemplar)

    def _database(self, execution: ExecutionContext) -> _Database:
        database = self._databases.get(execution.dialect)
        if database is None:
            database = self._databases[execution.dialect] = _Database(execution.dialect, execution.engine.url)
        return database

    def _attributes(
        self, database: _Database, query: QueryText, batch_size: int, code: str, kind: str
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
        return attributes

    def _trace(
        self,
        statement: _Statement,
        execution: ExecutionContext,
        name: str,
        attributes: dict[str, AttributeValue],
        seconds: float,
        failure: ExceptionContext | None,
    ) -> dict[str, str] | None:
        """Put the statement on contrib's span if it made one, else on one of our own; the span's exemplar."""
        span: Span | None = getattr(execution, _CONTRIB_SPAN, None)
        if span is not None:
            span.set_attributes(attributes)
        else:
            span = self._signals.tracer.start_span(
                name, kind=SpanKind.CLIENT, attributes=attributes, start_time=statement.started_ns
            )
            if failure is not None and span.is_recording():
                span.set_status(Status(StatusCode.ERROR, _description(failure)))
            span.end(statement.started_ns + int(seconds * 1e9))
        return self._exemplar(span, statement.started, seconds)

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
