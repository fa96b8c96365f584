"""Ends of transactions: for each COMMIT and ROLLBACK a CLIENT span, a duration, and an entry on its request's record.

SQLAlchemy's events `commit` and `rollback` come before the call only, and a listener of one switches on the slower path
for all statements. So the methods of `Connection` that end a transaction are wrapped: those of sessions and of async
engines end here too. What the pool does to a connection that was never used through a `Connection` is not seen.

Each session that only read ends with a ROLLBACK. One that takes less than `_SHORT` is measured, but has no span.

The line that ends a transaction is looked up if it may be a problem: when it is slow, and from the third COMMIT of a
request on.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.semconv.attributes.db_attributes import DB_OPERATION_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import SpanKind, Status, StatusCode
from sqlalchemy import Connection, Engine

from otel_fastperf.instrumentation.observed_statement import EngineFacts, facts_of_engine
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.patching import Patch, subscribed
from otel_fastperf.internals.redaction import describe_error, error_type
from otel_fastperf.internals.spans import SPAN_KEY, code_attributes
from otel_fastperf.requests.record import RequestRecord, TransactionEnds, current_record
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.tracing.tracer import may_end_late

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

    from otel_fastperf.findings import CallSite

COMMIT: Final = "COMMIT"
ROLLBACK: Final = "ROLLBACK"
#: SQLAlchemy's methods that end a transaction
_METHODS: Final = {
    "_commit_impl": COMMIT,
    "_commit_twophase_impl": COMMIT,
    "_rollback_impl": ROLLBACK,
    "_rollback_twophase_impl": ROLLBACK,
}
#: seconds; a shorter ROLLBACK has no span
_SHORT: Final = 0.001
#: seconds; less is no round trip to a database: no interval of the time budget, and nothing to tell of a ROLLBACK
_NOTHING: Final = 0.00005
#: COMMITs of a request from which, and up to which, their lines are looked up
_LOOKS_UP_FROM: Final = 3
_LOOKS_UP_TO: Final = 100


@contextmanager
def instrument_transactions(
    engines: "Sequence[Engine | AsyncEngine] | None", settings: DatabaseSettings, signals: Signals
) -> Iterator[None]:
    """Observe the ends of transactions of `engines` (None: of every engine of the process)."""
    ends = _EndListeners(engines, settings, signals)
    with ExitStack() as exits:
        for name, operation in _METHODS.items():
            if hasattr(Connection, name):  # private, so a later SQLAlchemy may do without
                exits.enter_context(subscribed(Connection, name, _observing(operation), ends, ends))
        yield


def _observing(operation: str) -> Callable[[Any, "Patch[_EndListeners]"], Any]:
    def wrap(original: Callable[..., None], patch: "Patch[_EndListeners]") -> Callable[..., None]:
        def end(connection: Connection, *arguments: Any, **options: Any) -> None:
            # outside of requests, the telemetry that was set up last
            for listeners in tuple(patch.subscribers.values())[::-1]:
                observed = listeners.begins(connection, operation)
                if observed is not None:
                    break
            else:
                original(connection, *arguments, **options)
                return
            try:
                original(connection, *arguments, **options)
            except BaseException as error:
                observed.ended(error)
                raise
            observed.ended(None)

        return end

    return wrap


class _EndListeners:
    """What one telemetry makes of the ends of transactions. Its failures never reach SQLAlchemy."""

    def __init__(
        self, engines: "Sequence[Engine | AsyncEngine] | None", settings: DatabaseSettings, signals: Signals
    ) -> None:
        # the copies that an engine's `execution_options()` returns share its dialect, and are observed with it
        self._dialects = None if engines is None else {engine.dialect for engine in engines}
        self.slow: float = settings.slow_commit
        self.signals: Signals = signals

    def begins(self, connection: Connection, operation: str) -> "_TransactionEnd | None":
        """Claim the end of a transaction, and take the time last. None if it is not ours to observe."""
        try:
            record = current_record()
            if self._dialects is not None and connection.dialect not in self._dialects:
                return None
            if record is not None and (record.excluded or record.owner is not self.signals):
                return None
            context = get_current() if record is not None else self.signals.start_ups.joined(get_current())
            # most contexts have nothing but a span, which suppresses nothing
            if not ((len(context) == 1 and SPAN_KEY in context) or is_instrumentation_enabled()):
                return None
            return _TransactionEnd(self, operation, record, context, facts_of_engine(connection.engine))
        except Exception as error:  # noqa: BLE001 - telemetry must not make a transaction fail
            self.signals.guard.failed("database", error)
            return None


class _TransactionEnd:
    """One COMMIT or ROLLBACK. To call it is to emit its span and its duration."""

    __slots__ = (
        "_context",
        "_engine",
        "_error",
        "_listeners",
        "_operation",
        "_record",
        "_seconds",
        "_site",
        "_started",
        "_started_ns",
    )

    def __init__(
        self,
        listeners: _EndListeners,
        operation: str,
        record: RequestRecord | None,
        context: Context,
        engine: EngineFacts,
    ) -> None:
        self._listeners = listeners
        self._operation = operation
        self._record = record
        self._context = context
        self._engine = engine
        self._site: CallSite | None = None
        self._error: tuple[str, str] | None = None
        self._seconds = 0.0
        self._started_ns = time.time_ns()
        self._started = time.perf_counter()

    def ended(self, error: BaseException | None) -> None:
        """Note it on its record, and emit it, now or later."""
        now = time.perf_counter()
        signals = self._listeners.signals
        try:
            self._seconds = now - self._started
            if self._seconds < _NOTHING and self._operation == ROLLBACK and error is None:
                return
            if error is not None:
                self._error = (
                    error_type(getattr(error, "orig", None) or error),
                    describe_error(error, signals.exceptions).message,
                )
            record = self._record
            if record is not None and self._seconds >= _NOTHING:
                signals.transactions.add(self._started, now, record)
            # that of a background task, or of a dependency that exits after the last byte, is not part of the request
            if record is not None and not record.ended and self._seconds >= _NOTHING:
                record.waited(self._started, now, Cause.COMMIT)
                self._note(record, now)
            self._record = None
            if error is None and may_end_late(signals.tracer):
                signals.backlog.put(self)
            else:
                self()
        except Exception as failure:  # noqa: BLE001 - telemetry must not make a transaction fail
            signals.guard.failed("database", failure)

    def _note(self, record: RequestRecord, now: float) -> None:
        ends = record.transaction_ends
        if ends is None:
            ends = record.transaction_ends = TransactionEnds()
        commit = self._operation == COMMIT
        commits = ends.commits + 1 if commit else 0
        slow = self._seconds >= self._listeners.slow
        if slow or _LOOKS_UP_FROM <= commits <= _LOOKS_UP_TO:
            self._site = call_site(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame
        own = self._own_seconds(record, now) if slow else self._seconds
        ends.add(self._operation, own, self._site, counts=commit)

    def _own_seconds(self, record: RequestRecord, now: float) -> float:
        """Duration without the time in which the process, or the loop that the answer waits for, stood still."""
        delays, on_loop = self._listeners.signals.delays, self._engine.is_async
        if on_loop and record.loop_thread == threading.get_ident():
            delays.catch_up()
        return delays.own_seconds(self._started, now, on_loop=on_loop)

    def __call__(self) -> None:
        """Emit span and duration."""
        signals, engine = self._listeners.signals, self._engine
        kind = "" if self._error is None else self._error[0]
        try:
            if self._operation == COMMIT or kind or self._seconds >= _SHORT:
                self._trace(kind)
            duration = signals.metrics.db_operation_duration
            duration.child(engine.system, engine.namespace, self._operation, kind).observe(self._seconds)
        except Exception as failure:  # noqa: BLE001 - costs this end's telemetry
            signals.guard.failed("database", failure)

    def _trace(self, kind: str) -> None:
        attributes: dict[str, AttributeValue] = {**self._engine.attributes, DB_OPERATION_NAME: self._operation}
        if kind:
            attributes[ERROR_TYPE] = kind
        attributes |= code_attributes(self._site)
        span = self._listeners.signals.tracer.start_span(
            self._operation, self._context, SpanKind.CLIENT, attributes, start_time=self._started_ns
        )
        if self._error is not None and span.is_recording():
            span.set_status(Status(StatusCode.ERROR, self._error[1] or None))
        span.end(self._started_ns + int(self._seconds * 1e9))
