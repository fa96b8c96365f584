"""SQL statements: for each a CLIENT span, a duration, and an entry on the record of the request that ran it.

    do_execute, do_executemany, do_execute_no_params    notes the time, has the dialect run the statement, then makes
                                                        span, duration histogram and request record
    handle_error                                        the same for a statement that failed or was cancelled

These are events of the dialect: one call for each statement, where `before_cursor_execute` and `after_cursor_execute`
are two, and switch on SQLAlchemy's slower path for statements as a whole. The listeners are registered on the `Engine`
class. They therefore see engines made earlier and later, and async ones, whose statements run in a greenlet that shares
the task's context. The text is the one that the application compiled, before a listener that adds comments makes each
one unique.

The record collects what detectors need: equal statements of a request in a `StatementGroup`, each execution as an
interval of the time budget. Finding the line that ran a statement costs as much as everything else together, so it is
looked up only if something may be wrong: on repeats, above the slow-query threshold, and on the event loop's thread.

Attributes: https://opentelemetry.io/docs/specs/semconv/db/database-spans/, the stable ones only. `error.type` is the
database's code if it has one (SQLSTATE, `SQLITE_CONSTRAINT_UNIQUE`, MySQL's number), else the exception's type. The
exception itself is recorded on the SERVER span: the conventions have no exception event on CLIENT spans.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.context import Context, get_current
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
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from sqlalchemy import Dialect, Engine, event
from sqlalchemy.engine import URL, ExceptionContext, ExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor, ExecuteStyle
from sqlalchemy.pool.base import _AdhocProxiedConnection

from otel_fastperf.findings import CallSite
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.redaction import describe_error, error_type
from otel_fastperf.internals.spans import SPAN_KEY, exemplar_of
from otel_fastperf.requests.record import CURRENT, MOST_STATEMENTS, RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.describe import QueryText, QueryTexts
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, OTHER, Load, load_of
from otel_fastperf.tracing.tracer import FinishedSpan, LeanTracer, may_end_late

if TYPE_CHECKING:
    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/db/#db-system-name
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
#: attributes in which drivers, and SQLAlchemy's adapters of async drivers, keep the database's code; psycopg2: `pgcode`
_CODES: Final = ("sqlstate", "pgcode", "sqlite_errorname")
#: systems whose drivers raise `(1062, "Duplicate entry …")`
_NUMBERED: Final = ("mysql", "mariadb")
#: attribute of the execution context that carries the `_ObservedStatement`
_RUNNING: Final = "_fastperf_statement"
#: attribute of the dialect that carries its `_EngineFacts`
_FACTS: Final = "_fastperf_facts"
#: attribute of the execution context that carries the span of opentelemetry-instrumentation-sqlalchemy
_CONTRIB_SPAN: Final = "_otel_span"

#: seconds between two exemplars; a statement of at least `_ALWAYS_EXEMPLARY` seconds always gets one
_EXEMPLAR_PAUSE: Final = 0.1
_ALWAYS_EXEMPLARY: Final = 0.1

#: most repeats of a statement whose line is looked up; later ones are assumed to come from the same line
_MOST_LOOK_UPS: Final = 100
#: look-ups of repeats of one statement per second
_LOOK_UPS_PER_SECOND: Final = 50
#: statements whose origin is remembered
_MOST_ORIGINS: Final = 1024
#: statements whose encoded spans are remembered, as many as the texts that are
_MOST_TEMPLATES: Final = 512
#: operations that read or write rows
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
    """Observe the statements of `engines` (None: of every engine of the process) until the context manager exits.

    If several telemetries run in one process, exactly one of them observes a statement: the one that serves the
    request, or outside of requests the one that was set up first. With `exemplars`, durations carry the ids of sampled
    spans. `on_slow` is called with each statement above the threshold, on the thread that ran it: usually the event
    loop's.
    """
    listeners = _StatementListeners(engines, settings, signals, exemplars=exemplars, on_slow=on_slow)
    events = (
        ("do_execute", listeners.execute),
        ("do_executemany", listeners.executemany),
        ("do_execute_no_params", listeners.execute_no_params),
        ("handle_error", listeners.failed),
    )
    with ExitStack() as exits:
        for name, listener in events:
            event.listen(Engine, name, listener)
            exits.callback(event.remove, Engine, name, listener)
        yield


class _ObservedStatement:
    """A statement, from just before it is executed until its span has been emitted. To call it is to emit it.

    While it runs, its execution context carries it, which marks the statement as observed.

    Attributes:
        context: The context that it runs in, with the parent of its span.
        many: True for an `executemany` and for a batch of insertmanyvalues.
        batch_size: Number of parameter sets of an `executemany`; 0 for a single execution.
        started_ns: When it started, by the wall clock: for the span.
        started: The same by `time.perf_counter()`, which is never set back: for durations. `ended` too.
        failure: What SQLAlchemy knows of a statement that failed or was cancelled.
        slow: Whether it took at least `slow_query` seconds, without the time in which the event loop was blocked.
        site: The line that ran it, if its span should name it.
        execution, engine, query, ended, seconds: Set when it has ended. `execution` is deleted before it has to wait.
    """

    __slots__ = (
        "batch_size",
        "context",
        "ended",
        "engine",
        "execution",
        "failure",
        "listeners",
        "many",
        "query",
        "record",
        "seconds",
        "site",
        "slow",
        "started",
        "started_ns",
        "text",
    )

    execution: ExecutionContext
    engine: "_EngineFacts"
    query: QueryText
    ended: float
    seconds: float

    def __init__(
        self,
        listeners: "_StatementListeners",
        record: RequestRecord | None,
        context: Context,
        text: str,
        batch_size: int,
        many: bool,  # noqa: FBT001 - called for each statement
    ) -> None:
        self.listeners = listeners
        self.record = record
        self.context = context
        self.text = text
        self.many = many
        self.batch_size = batch_size
        self.failure: ExceptionContext | None = None
        self.slow = False
        self.site: CallSite | None = None
        self.started_ns = time.time_ns()
        self.started = time.perf_counter()

    def __call__(self) -> None:
        """Emit the span and the metric of a statement that has ended."""
        self.listeners.emit(self)

    def slow_statement(self, text: str, parameters: Any, span: Span | None) -> SlowStatement:
        """The statement as it is passed to `on_slow`."""
        return SlowStatement(
            engine=self.execution.engine,
            text=text,
            parameters=parameters,
            dialect=self.engine.dialect,
            fingerprint=self.query.fingerprint,
            summary=self.query.summary,
            seconds=self.seconds,
            record=self.record,
            span=span,
        )


class _EngineFacts:
    """Values shared by all statements of an engine."""

    __slots__ = ("attributes", "dialect", "is_async", "namespace", "system")

    def __init__(self, dialect: Dialect, url: URL) -> None:
        self.dialect = dialect.name
        self.is_async = dialect.is_async
        is_mariadb = getattr(dialect, "is_mariadb", False)
        self.system = "mariadb" if is_mariadb else _SYSTEMS.get(dialect.name, dialect.name)
        self.namespace = url.database or (":memory:" if dialect.name == "sqlite" else "")
        self.attributes: dict[str, AttributeValue] = {DB_SYSTEM_NAME: self.system}
        # libpq also accepts the host, or the directory of the Unix socket, in the query
        address = url.host or url.query.get("host")
        optional = ((DB_NAMESPACE, self.namespace), (SERVER_ADDRESS, address), (SERVER_PORT, url.port))
        self.attributes |= {name: value for name, value in optional if value}


class _StatementOrigin(NamedTuple):
    """Where a repeated statement came from when it was last looked up."""

    site: CallSite | None
    load: Load | None


class _Origins:
    """The origins of repeated statements, by fingerprint, and how often they were looked up in this second.

    The hundredth N+1 of a second says nothing new, so its line is taken from the last one that was looked up.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[_StatementOrigin, int, int]] = {}

    def known(self, fingerprint: str) -> _StatementOrigin | None:
        """The origin to assume; None if it should be looked up."""
        found = self._last.get(fingerprint)
        if found is None:
            return None
        origin, second, number = found
        return origin if number >= _LOOK_UPS_PER_SECOND and second == int(time.monotonic()) else None

    def add(self, fingerprint: str, origin: _StatementOrigin) -> None:
        """Note a look-up."""
        now = int(time.monotonic())
        _, second, number = self._last.get(fingerprint, (origin, now, 0))
        if len(self._last) >= _MOST_ORIGINS and fingerprint not in self._last:
            self._last.clear()
        self._last[fingerprint] = (origin, now, number + 1 if second == now else 1)


class _StatementListeners:
    """The event listeners of one telemetry. Their failures never reach SQLAlchemy."""

    def __init__(
        self,
        engines: "Sequence[Engine | AsyncEngine] | None",
        settings: DatabaseSettings,
        signals: Signals,
        *,
        exemplars: bool,
        on_slow: Callable[[SlowStatement], None] | None,
    ) -> None:
        # the copies that an engine's `execution_options()` returns share its dialect, and are observed with it
        self._dialects = None if engines is None else {engine.dialect for engine in engines}
        self._signals = signals
        self._query_text = settings.query_text
        self._exemplars = exemplars
        self._next_exemplar = 0.0
        self._slow_query = settings.slow_query
        self._on_slow = on_slow
        # half of the repeats are enough to tell whether they come from the same line
        self._looks_up_from = max(2, settings.n_plus_one // 2)
        self._queries = QueryTexts(max_length=settings.query_text_length)
        self._origins = _Origins()
        #: by the id of the query; the query itself is kept, so that its id stays its own
        self._templates: dict[int, tuple[QueryText, _EngineFacts, FinishedSpan]] = {}
        self._lock = threading.Lock()

    def execute(self, cursor: DBAPICursor, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """`do_execute`: run the statement if it is ours to observe; True if it has been run."""
        if not self._begins(text, parameters, execution):
            return False
        dialect = execution.dialect
        if not _run_by_another(self.execute, dialect.dispatch.do_execute, cursor, text, parameters, execution):
            dialect.do_execute(cursor, text, parameters, execution)
        self._finish(execution, text, parameters, None)
        return True

    def executemany(self, cursor: DBAPICursor, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """`do_executemany`: the same for several sets of parameters."""
        if not self._begins(text, parameters, execution):
            return False
        dialect = execution.dialect
        if not _run_by_another(self.executemany, dialect.dispatch.do_executemany, cursor, text, parameters, execution):
            dialect.do_executemany(cursor, text, parameters, execution)
        self._finish(execution, text, parameters, None)
        return True

    def execute_no_params(self, cursor: DBAPICursor, text: str, execution: ExecutionContext) -> bool:
        """`do_execute_no_params`: the same for a statement without parameters."""
        if not self._begins(text, (), execution):
            return False
        dialect = execution.dialect
        others = dialect.dispatch.do_execute_no_params
        if not _run_by_another(self.execute_no_params, others, cursor, text, execution):
            dialect.do_execute_no_params(cursor, text, execution)
        self._finish(execution, text, (), None)
        return True

    def _begins(self, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """Claim the statement, and take the time last. False if it is not ours to observe."""
        try:
            record = CURRENT.get()
            context = get_current()
            if not self._observes(execution.dialect, record, context, execution):
                return False
            batch_size, many = 0, execution.executemany
            own = getattr(execution, "statement", None)  # missing on a context for a sequence or a default
            if own is not text and own and own in text:
                text = own
            if many:
                text, batch_size = _batch(text, parameters, execution)
            setattr(execution, _RUNNING, _ObservedStatement(self, record, context, text, batch_size, many))
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("database", error)
            return False
        return True

    def failed(self, failure: ExceptionContext) -> None:
        """`handle_error`: the statement failed or was cancelled. A failure to connect has no statement."""
        if failure.execution_context is not None:
            self._finish(failure.execution_context, failure.statement or "", failure.parameters, failure)

    def _observes(
        self, dialect: Dialect, record: RequestRecord | None, context: Context, execution: ExecutionContext
    ) -> bool:
        """True if this telemetry is the one to observe the statement."""
        if self._dialects is not None and dialect not in self._dialects:
            return False
        if isinstance(execution.root_connection.connection, _AdhocProxiedConnection):
            return False  # a dialect that asks a new database for its version and settings
        if record is None:
            if getattr(execution, _RUNNING, None) is not None:
                return False
        elif record.excluded or record.owner is not self._signals:
            return False
        # most contexts have nothing but a span, which suppresses nothing
        return (len(context) == 1 and SPAN_KEY in context) or is_instrumentation_enabled()

    def _finish(
        self, execution: ExecutionContext, text: str, parameters: Any, failure: ExceptionContext | None
    ) -> None:
        try:
            done: _ObservedStatement | None = getattr(execution, _RUNNING, None)
            if done is None or done.listeners is not self:
                return
            done.ended = time.perf_counter()
            # an execution context runs several statements one after the other: defaults, batches of insertmanyvalues
            setattr(execution, _RUNNING, None)
            done.seconds = seconds = done.ended - done.started
            done.execution, done.failure = execution, failure
            done.engine = engine = self._facts(execution)
            done.query = self._queries.describe(done.text, engine.dialect, batch=done.batch_size > 1)
            done.slow = seconds >= self._slow_query and self._unblocked_seconds(done) >= self._slow_query
            self._record(done)
            if done.slow and not done.many and self._on_slow is not None:
                self._on_slow(done.slow_statement(text, parameters, self._emit(done)))
            elif failure is None and _CONTRIB_SPAN not in execution.__dict__ and may_end_late(self._signals.tracer):
                # a cursor that is kept is a statement in progress, and SQLite then refuses to commit
                del done.execution
                self._signals.backlog.put(done)
            else:
                self._emit(done)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("database", error)

    def emit(self, done: _ObservedStatement) -> None:
        """Emit the span and the metric of a statement that succeeded and has waited for it."""
        try:
            tracer = self._signals.tracer
            if isinstance(tracer, LeanTracer) and done.site is None and done.batch_size <= 1:
                self._emit_from_template(done, tracer)
            else:
                self._emit(done)
        except Exception as error:  # noqa: BLE001 - costs this statement's telemetry
            self._signals.guard.failed("database", error)

    def _facts(self, execution: ExecutionContext) -> _EngineFacts:
        dialect = execution.dialect
        # on the dialect itself, since a look-up in a dict with weak keys takes as long as half of the rest
        facts: _EngineFacts | None = dialect.__dict__.get(_FACTS)
        if facts is None:
            facts = _EngineFacts(dialect, execution.engine.url)
            setattr(dialect, _FACTS, facts)
        return facts

    def _unblocked_seconds(self, done: _ObservedStatement) -> float:
        """Duration without the time in which the answer may have been there, but the event loop was blocked."""
        if not done.engine.is_async:
            return done.seconds
        delays = self._signals.delays
        if done.record is not None and done.record.loop_thread == threading.get_ident():
            delays.catch_up()
        return done.seconds - delays.blocked_seconds(done.started, done.ended)

    # --- the request record -------------------------------------------------------------------------------------------

    def _record(self, done: _ObservedStatement) -> None:
        """Note the statement on its record, and find the line that ran it if the span should name it."""
        record = done.record
        try:
            # a statement of a background task is not part of the request, which has ended
            if record is None or record.ended:
                if done.slow:
                    done.site = _calling_line()
                return
            record.waited(done.started, done.ended, Cause.DB)
            on_loop = not done.engine.is_async and _blocks_loop(record)
            suspicious = done.slow or on_loop
            group = self._group(record, done) if suspicious or not done.many else None
            worker = _worker(record) if group is not None and group.count else 0
            repeats = 0
            # a request may run statements in several threads, and `+=` is atomic only by accident
            with self._lock:
                record.db_statements += 1
                record.db_seconds += done.seconds
                if group is not None:
                    repeats = group.add(done.started, done.ended, worker)
            if group is not None and (suspicious or repeats >= self._looks_up_from):
                self._look_up(done, group, on_loop=on_loop)
        except Exception as error:  # noqa: BLE001 - costs the evidence, not the span
            self._signals.guard.failed("database", error)

    def _group(self, record: RequestRecord, done: _ObservedStatement) -> StatementGroup | None:
        query, engine = done.query, done.engine
        key = f"{query.fingerprint} many" if done.many else query.fingerprint
        group = record.statements.get(key)
        if group is None and len(record.statements) < MOST_STATEMENTS:
            new = StatementGroup(query, engine.dialect, engine.system, engine.namespace)
            group = record.statements.setdefault(key, new)
            if done.many or query.operation not in _REPEATABLE:
                group.load = OTHER
        return group

    def _look_up(self, done: _ObservedStatement, group: StatementGroup, *, on_loop: bool) -> None:
        """Find the line of a statement that may be a problem, and add it to its group.

        Two threads of one request may race here, at the cost of one uncounted repeat.
        """
        repeats, known = group.count, None
        if repeats >= self._looks_up_from:
            known = self._origins.known(done.query.fingerprint)
            if group.load is None:
                group.load = load_of(done.execution) if known is None else known.load
        repeated = group.load is not None and group.load.kind in ONE_BY_ONE and repeats < _MOST_LOOK_UPS
        site = known.site if repeated and known is not None else None
        if done.slow or (on_loop and not group.loop_count) or (repeated and known is None):
            site = _calling_line()
        if repeated and known is None:
            self._origins.add(done.query.fingerprint, _StatementOrigin(site, group.load))
        self._add_line(done, group, site, repeated=repeated, on_loop=on_loop)

    def _add_line(
        self, done: _ObservedStatement, group: StatementGroup, site: CallSite | None, *, repeated: bool, on_loop: bool
    ) -> None:
        # the spans of further repeats would name the same line, at a tenth of the cost of a statement's telemetry
        if done.slow or (on_loop and not group.loop_count) or site not in group.lines:
            done.site = site
        if repeated:
            line = group.lines.setdefault(site, [0, 0.0])
            line[0] += 1
            line[1] += done.seconds
        if on_loop:
            group.call_site = group.call_site if group.loop_count else site
            group.loop_count += 1
            group.loop_seconds += done.seconds
        if done.slow:
            group.slow_count += 1
            group.slow_seconds += done.seconds
            if done.seconds > group.slowest:
                group.slowest, group.slow_call_site = done.seconds, site
                group.slow_rows = _rows(done.execution)

    # --- span and metric ----------------------------------------------------------------------------------------------

    def _emit_from_template(self, done: _ObservedStatement, tracer: LeanTracer) -> None:
        """The same as `_emit` for a statement whose span has nothing of its own but ids and times."""
        engine, query = done.engine, done.query
        known = self._templates.get(id(query))
        if known is None or known[0] is not query or known[1] is not engine:
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            template = FinishedSpan(self._name(done), SpanKind.CLIENT, self._attributes(done, "", ""))
            known = self._templates[id(query)] = query, engine, template
        start = done.started_ns
        context = tracer.emit(known[2], done.context, start, start + int(done.seconds * 1e9))
        exemplar = self._exemplar(NonRecordingSpan(context), done)
        duration = self._signals.metrics.db_operation_duration
        duration.child(engine.system, engine.namespace, query.operation, "").observe(done.seconds, exemplar)

    def _emit(self, done: _ObservedStatement) -> Span | None:
        """Emit the span and the duration; the span, or None if it could not be made."""
        engine = done.engine
        code = error_kind = ""
        if done.failure is not None:
            code = _status_code(done.failure.original_exception, engine.system)
            error_kind = code or error_type(done.failure.original_exception)
        exemplar = span = None
        try:
            span = self._trace(done, self._attributes(done, code, error_kind))
            exemplar = self._exemplar(span, done)
        except Exception as error:  # noqa: BLE001 - a sampler or processor that fails costs the span, not the metric
            self._signals.guard.failed("database", error)
        duration = self._signals.metrics.db_operation_duration
        duration.child(engine.system, engine.namespace, done.query.operation, error_kind).observe(
            done.seconds, exemplar
        )
        return span

    def _attributes(self, done: _ObservedStatement, code: str, error_kind: str) -> dict[str, AttributeValue]:
        query, site = done.query, done.site
        attributes = {**done.engine.attributes, DB_OPERATION_NAME: query.operation}
        if query.summary:
            attributes[DB_QUERY_SUMMARY] = query.summary
        if query.collection:
            attributes[DB_COLLECTION_NAME] = query.collection
        if self._query_text:
            attributes[DB_QUERY_TEXT] = query.text
        if done.batch_size > 1:
            attributes[DB_OPERATION_BATCH_SIZE] = done.batch_size
        if code:
            attributes[DB_RESPONSE_STATUS_CODE] = code
        if error_kind:
            attributes[ERROR_TYPE] = error_kind
        if site is not None:
            attributes[CODE_FILE_PATH] = site.file
            attributes[CODE_LINE_NUMBER] = site.line
            attributes[CODE_FUNCTION_NAME] = site.function
        return attributes

    def _trace(self, done: _ObservedStatement, attributes: dict[str, AttributeValue]) -> Span:
        """Add the attributes to contrib's span if it made one, else make our own."""
        span: Span | None = getattr(getattr(done, "execution", None), _CONTRIB_SPAN, None)
        if span is not None and span.get_span_context().is_valid:
            span.set_attributes(attributes)
            return span
        name = self._name(done)
        started_ns = done.started_ns
        span = self._signals.tracer.start_span(name, done.context, SpanKind.CLIENT, attributes, start_time=started_ns)
        if done.failure is not None and span.is_recording():
            span.set_status(Status(StatusCode.ERROR, _description(done.failure)))
        span.end(started_ns + int(done.seconds * 1e9))
        return span

    def _name(self, done: _ObservedStatement) -> str:
        return done.query.summary or done.engine.namespace or done.engine.system

    def _exemplar(self, span: Span, done: _ObservedStatement) -> dict[str, str] | None:
        # Prometheus keeps one per series and scrape, and each takes 7 us, a tenth of a statement's telemetry
        started = done.started
        if not self._exemplars or (done.seconds < _ALWAYS_EXEMPLARY and started < self._next_exemplar):
            return None
        self._next_exemplar = started + _EXEMPLAR_PAUSE
        return exemplar_of(span)


def _run_by_another(own: Callable[..., bool], listeners: Any, *arguments: Any) -> bool:
    """Offer a statement to the listeners after our own, as SQLAlchemy would; True if one has run it."""
    if len(listeners) == 1:
        return False
    later = iter(tuple(listeners))
    for listener in later:
        if listener == own:
            break
    return any(listener(*arguments) for listener in later)


def _calling_line() -> CallSite | None:
    """The line of the application that runs the current statement."""
    return call_site(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame


def _batch(text: str, parameters: Any, execution: ExecutionContext) -> tuple[str, int]:
    """Text and number of parameter sets of an `executemany`.

    "insertmanyvalues" is one INSERT of many rows, not a batch as the conventions define it. Its text has a group of
    placeholders for each row, so the text for a single row is used instead.
    """
    if execution.execute_style is ExecuteStyle.INSERTMANYVALUES:
        return execution.statement or text, 0
    return text, len(parameters)


def _blocks_loop(record: RequestRecord) -> bool:
    """True if a synchronous statement that runs here blocks the event loop of its request.

    It does so on the loop's thread, unless it runs in a greenlet: under gevent, and in greenlets that lead back to an
    event loop, the driver may yield.
    """
    if threading.get_ident() != record.loop_thread:
        return False
    greenlet = sys.modules.get("greenlet")
    return greenlet is None or greenlet.getcurrent().parent is None


def _rows(execution: ExecutionContext) -> int:
    """Number of rows that the statement read or changed; -1 if the driver does not know."""
    try:
        return int(execution.cursor.rowcount)
    except Exception:  # noqa: BLE001 - the cursor may be closed or missing
        return -1


def _worker(record: RequestRecord) -> int:
    """Id of the current task or thread, unique among those of the request that are alive."""
    thread = threading.get_ident()
    if thread != record.loop_thread:
        return thread
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # not an asyncio event loop
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
    """The message without values: SQLAlchemy's exception knows the parameters, so they can be found and removed."""
    return describe_error(failure.sqlalchemy_exception or failure.original_exception).message
