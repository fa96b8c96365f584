"""SQL statements: for each a CLIENT span, a duration, and an entry on the record of the request that ran it.

    do_execute, do_executemany, do_execute_no_params    notes the time, has the dialect run the statement, then makes
                                                        span, duration histogram and request record
    handle_error                                        the same for a statement that failed or was cancelled

These are events of the dialect: one call for each statement, where `before_cursor_execute` and `after_cursor_execute`
are two, and switch on SQLAlchemy's slower path for statements as a whole. The listeners are registered on the `Engine`
class, once for all apps of the process. They therefore see engines made earlier and later, and async ones, whose
statements run in a greenlet that shares the task's context. The text is the one that the application compiled, before a
listener that adds comments makes each one unique.

What is made of a statement: `statement_evidence`, `statement_spans`.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from sqlalchemy import Dialect, Engine
from sqlalchemy.engine import ExceptionContext, ExecutionContext
from sqlalchemy.engine.interfaces import DBAPICursor, ExecuteStyle
from sqlalchemy.pool.base import _AdhocProxiedConnection

from otel_fastperf.instrumentation.engine_events import EngineEvents
from otel_fastperf.instrumentation.observed_statement import ObservedStatement, facts_of, facts_of_engine
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.instrumentation.sql_comments import StatementComments
from otel_fastperf.instrumentation.statement_evidence import StatementEvidence
from otel_fastperf.instrumentation.statement_spans import StatementSpans
from otel_fastperf.internals.patching import hooked
from otel_fastperf.internals.spans import SPAN_KEY
from otel_fastperf.requests.record import RequestRecord, current_record
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.describe import QueryTexts

if TYPE_CHECKING:
    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

#: attribute of the execution context that carries the `ObservedStatement`
_RUNNING: Final = "_fastperf_statement"

#: seconds from which a statement is examined for time that it did not take itself
_WORTH_A_LOOK: Final = 0.001


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
    request, or outside of requests the one that was set up last. With `exemplars`, durations carry the ids of sampled
    spans. `on_slow` is called with each statement above the threshold, on the thread that ran it: usually the event
    loop's.
    """
    listeners = _StatementListeners(engines, settings, signals, exemplars=exemplars, on_slow=on_slow)
    with hooked(Engine, "statements", _StatementEvents, listeners, listeners):
        yield


class _StatementEvents(EngineEvents["_StatementListeners"]):
    """Passes each statement to the one telemetry that observes it."""

    def __init__(self) -> None:
        super().__init__(
            ("do_execute", self.execute),
            ("do_executemany", self.executemany),
            ("do_execute_no_params", self.execute_no_params),
            ("handle_error", self.failed),
        )

    def execute(self, cursor: DBAPICursor, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """`do_execute`: run the statement if somebody observes it; True if it has been run."""
        return self._run("do_execute", self.execute, parameters, cursor, text, parameters, execution)

    def executemany(self, cursor: DBAPICursor, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """`do_executemany`: the same for several sets of parameters."""
        return self._run("do_executemany", self.executemany, parameters, cursor, text, parameters, execution)

    def execute_no_params(self, cursor: DBAPICursor, text: str, execution: ExecutionContext) -> bool:
        """`do_execute_no_params`: the same for a statement without parameters."""
        return self._run("do_execute_no_params", self.execute_no_params, (), cursor, text, execution)

    def failed(self, failure: ExceptionContext) -> None:
        """`handle_error`: the statement failed or was cancelled."""
        if failure.execution_context is not None:
            done: ObservedStatement | None = getattr(failure.execution_context, _RUNNING, None)
            if done is not None:
                done.observer.failed(failure, failure.execution_context)
            return
        for listeners in self._newest_first():
            if listeners.never_began(failure):
                return

    def _newest_first(self) -> "tuple[_StatementListeners, ...]":
        return tuple(self.subscribers.values())[::-1]

    def _run(self, name: str, own: Callable[..., bool], parameters: Any, *arguments: Any) -> bool:
        """Handle the event `name`, called like the dialect's method, with its arguments; `own` listens to it."""
        text, execution = arguments[1], arguments[-1]
        for listeners in self._newest_first():
            if listeners.begins(text, parameters, execution):
                break
        else:
            return False
        if listeners.comments is not None and name != "do_executemany":
            # a driver may send a batch as one statement, if its text ends with the values
            arguments = listeners.comments.added(getattr(execution, _RUNNING), arguments)
        dialect = execution.dialect
        if not _run_by_another(own, getattr(dialect.dispatch, name), *arguments):
            getattr(dialect, name)(*arguments)
        listeners.finish(execution, text, parameters, None)
        return True


class _StatementListeners:
    """What one telemetry makes of statements. Its failures never reach SQLAlchemy."""

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
        #: None without comments
        self.comments: StatementComments | None = (
            None if settings.sql_comments == "off" else StatementComments(settings.sql_comments, signals.guard)
        )
        self._slow_query = settings.slow_query
        self._on_slow = on_slow
        self._queries = QueryTexts(max_length=settings.query_text_length)
        #: from here on, the time in which the event loop was blocked, or the machine busy, is left out
        self._long = min(settings.slow_query, settings.lock_wait, settings.frequent_query)
        self._evidence = StatementEvidence(signals, settings)
        self._spans = StatementSpans(signals, settings, exemplars=exemplars)

    def begins(self, text: str, parameters: Any, execution: ExecutionContext) -> bool:
        """Claim the statement, and take the time last. False if it is not ours to observe."""
        try:
            record = current_record()
            context = get_current() if record is not None else self._signals.start_ups.joined(get_current())
            if not self._observes(execution.dialect, record, context, execution):
                return False
            batch_size, many = 0, execution.executemany
            own = getattr(execution, "statement", None)  # missing on a context for a sequence or a default
            if own is not text and own and own in text:
                text = own
            if many:
                text, batch_size = _batch(text, parameters, execution)
            setattr(execution, _RUNNING, ObservedStatement(self, record, context, text, batch_size, many))
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("database", error)
            return False
        return True

    def failed(self, failure: ExceptionContext, execution: ExecutionContext) -> None:
        """Finish a statement that failed or was cancelled."""
        self.finish(execution, failure.statement or "", failure.parameters, failure)

    def never_began(self, failure: ExceptionContext) -> bool:
        """Emit a statement whose connection turned out to be dead before the driver got it; False if it is not ours.

        A failure to connect has no statement.
        """
        text, engine = failure.statement, failure.engine
        if not text or failure.connection is None or engine is None:
            return False
        try:
            record, context = current_record(), get_current()
            if record is None:
                context = self._signals.start_ups.joined(context)
            if not self._observes(engine.dialect, record, context, None):
                return False
            done = ObservedStatement(self, record, context, text, 0, False)  # noqa: FBT003 - as `_begins` makes it
            done.ended, done.seconds, done.own_seconds = done.started, 0.0, 0.0
            done.failure, done.engine = failure, facts_of_engine(engine)
            done.query = self._queries.describe(text, done.engine.dialect)
            self._spans.emit(done)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("database", error)
        return True

    def _observes(
        self, dialect: Dialect, record: RequestRecord | None, context: Context, execution: ExecutionContext | None
    ) -> bool:
        """True if this telemetry is the one to observe the statement; `execution` is None if it never began."""
        if self._dialects is not None and dialect not in self._dialects:
            return False
        if execution is not None and isinstance(execution.root_connection.connection, _AdhocProxiedConnection):
            return False  # a dialect that asks a new database for its version and settings
        if record is not None and (record.excluded or record.owner is not self._signals):
            return False
        # most contexts have nothing but a span, which suppresses nothing
        return (len(context) == 1 and SPAN_KEY in context) or is_instrumentation_enabled()

    def finish(self, execution: ExecutionContext, text: str, parameters: Any, failure: ExceptionContext | None) -> None:
        """Make of the statement what it means."""
        try:
            done: ObservedStatement | None = getattr(execution, _RUNNING, None)
            if done is None:
                return
            done.ended = time.perf_counter()
            # an execution context runs several statements one after the other: defaults, batches of insertmanyvalues
            setattr(execution, _RUNNING, None)
            done.seconds = seconds = done.ended - done.started
            done.execution, done.failure = execution, failure
            done.engine = engine = facts_of(execution)
            done.query = self._queries.describe(done.text, engine.dialect, batch=done.batch_size > 1)
            done.own_seconds = seconds if seconds < _WORTH_A_LOOK else self._own_seconds(done)
            done.slow = done.own_seconds >= self._slow_query
            self._evidence.note(done)
            if done.slow and not done.many and self._on_slow is not None:
                self._on_slow(done.slow_statement(text, parameters, self._spans.emit(done)))
            elif self._spans.may_wait(done):
                # a cursor that is kept is a statement in progress, and SQLite then refuses to commit
                del done.execution
                self._signals.backlog.put(done)
            else:
                self._spans.emit(done)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("database", error)

    def emit_late(self, done: ObservedStatement) -> None:
        """Emit the span and the metric of a statement that has waited for it."""
        self._spans.emit_late(done)

    def _own_seconds(self, done: ObservedStatement) -> float:
        """Duration without the time in which the process, or the loop that the answer waits for, stood still."""
        delays, on_loop = self._signals.delays, done.engine.is_async
        if done.seconds < self._long:
            return done.seconds - delays.paused_seconds(done.started, done.ended)
        if on_loop and done.record is not None and done.record.loop_thread == threading.get_ident():
            delays.catch_up()
        return delays.own_seconds(done.started, done.ended, on_loop=on_loop)


def _run_by_another(own: Callable[..., bool], listeners: Any, *arguments: Any) -> bool:
    """Offer a statement to the listeners after our own, as SQLAlchemy would; True if one has run it."""
    if len(listeners) == 1:
        return False
    later = iter(tuple(listeners))
    for listener in later:
        if listener == own:
            break
    return any(listener(*arguments) for listener in later)


def _batch(text: str, parameters: Any, execution: ExecutionContext) -> tuple[str, int]:
    """Text and number of parameter sets of an `executemany`.

    "insertmanyvalues" is one INSERT of many rows, not a batch as the conventions define it. Its text has a group of
    placeholders for each row, so the text for a single row is used instead.
    """
    if execution.execute_style is ExecuteStyle.INSERTMANYVALUES:
        return execution.statement or text, 0
    return text, len(parameters)
