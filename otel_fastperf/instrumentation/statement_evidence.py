"""What detectors need of a statement: its place in its request's record, and the line that ran it if that may matter.

Equal statements of a request are one `StatementGroup`, and each execution is an interval of the time budget. Finding
the line that ran a statement costs as much as everything else together, so it is looked up only where something may be
wrong: on repeats, above the slow-query threshold, and on the event loop's thread.
"""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from sqlalchemy import Table, UniqueConstraint
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.sql.util import find_tables

from otel_fastperf.findings import CallSite
from otel_fastperf.instrumentation.large_results import LargeResults
from otel_fastperf.instrumentation.observed_statement import ObservedStatement, database_code
from otel_fastperf.internals.frames import call_site, coroutine_of
from otel_fastperf.internals.loops import loop_around
from otel_fastperf.requests.locks import MOST_WAITS, LockWait
from otel_fastperf.requests.record import MOST_STATEMENTS, BlockedCaller, RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.requests.workers import current_worker
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.locking import is_refusal, locks_rows
from otel_fastperf.sql.look_ups import LookUp, finds_one_row
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, OTHER, Load, LoadKind, load_of
from otel_fastperf.sql.paging import skipped_rows
from otel_fastperf.sql.plans.statement import starts_with_wildcard

#: most repeats of a statement whose line is looked up; later ones are assumed to come from the same line
_MOST_LOOK_UPS: Final = 100
#: look-ups of repeats of one statement per second
_LOOK_UPS_PER_SECOND: Final = 50
#: statements whose origin is remembered
_MOST_ORIGINS: Final = 1024
#: operations that read or write rows
_REPEATABLE: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "CALL", "EXECUTE"})
#: purposes that may be an N+1; a flush is one if it is repeated itself
_LOOKED_UP: Final = ONE_BY_ONE | {LoadKind.FLUSH}


class StatementEvidence:
    """Notes the statements of one telemetry on the records of their requests."""

    def __init__(self, signals: Signals, settings: DatabaseSettings) -> None:
        self._signals = signals
        # half of the repeats are enough to tell whether they come from the same line
        self._looks_up_from = max(2, settings.n_plus_one // 2)
        self._lock_wait = settings.lock_wait
        self._long = min(settings.frequent_query, settings.slow_query)
        self._origins = _Origins[_StatementOrigin]()
        self._blocking = _Origins[_BlockingOrigin]()
        self._results = LargeResults(settings.large_result, signals.guard)
        self._lock = threading.Lock()

    def note(self, done: ObservedStatement) -> None:
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
            may_have_waited = done.own_seconds >= self._lock_wait and locks_rows(done.query)
            suspicious = done.own_seconds >= self._long or on_loop or may_have_waited
            group = self._group(record, done)
            worker = current_worker(record.loop_thread) if group is not None and group.count else 0
            repeats = 0
            # a request may run statements in several threads, and `+=` is atomic only by accident
            with self._lock:
                record.db_statements += 1
                record.db_seconds += done.seconds
                if group is not None:
                    repeats = group.add(done.started, done.ended, worker, done.own_seconds)
            if group is not None and (suspicious or repeats >= self._looks_up_from):
                self._look_up(done, group, on_loop=on_loop)
            if group is not None and done.failure is None and done.query.operation == "SELECT":
                self._results.look(done, group)
            if group is not None and may_have_waited and len(group.lock_waits) < MOST_WAITS:
                self._note_lock_wait(done, record, group)
        except Exception as error:  # noqa: BLE001 - costs the evidence, not the span
            self._signals.guard.failed("database", error)

    def _group(self, record: RequestRecord, done: ObservedStatement) -> StatementGroup | None:
        query, engine = done.query, done.engine
        key = f"{query.fingerprint} many" if done.many else query.fingerprint
        group = record.statements.get(key)
        if group is None and len(record.statements) < MOST_STATEMENTS:
            new = StatementGroup(query, engine.dialect, engine.system, engine.namespace)
            group = record.statements.setdefault(key, new)
            if done.many or query.operation not in _REPEATABLE:
                group.load = OTHER
        return group

    def _note_lock_wait(self, done: ObservedStatement, record: RequestRecord, group: StatementGroup) -> None:
        done.site = group.lock_site = done.site or _calling_line()
        error = None if done.failure is None else done.failure.original_exception
        refused = error is not None and is_refusal(database_code(error, done.engine.system), str(error))
        one_row = finds_one_row(done.query, _look_up_of(done))
        wait = LockWait(done.own_seconds, done.site, one_row=one_row, refused=refused)
        group.lock_waits.append(wait)
        self._signals.transactions.seek(wait, record, group, done.started, done.ended)

    def _look_up(self, done: ObservedStatement, group: StatementGroup, *, on_loop: bool) -> None:
        """Find the line of a statement that may be a problem, and add it to its group.

        Two threads of one request may race here, at the cost of one uncounted repeat.
        """
        repeats, known, key = group.count, None, ""
        if repeats >= self._looks_up_from:
            key = _origin_key(done)
            known = self._origins.known(key)
            if group.load is None:
                group.load = load_of(done.execution) if known is None else known.load
        repeated = group.load is not None and group.load.kind in _LOOKED_UP and repeats < _MOST_LOOK_UPS
        site = known.site if repeated and known is not None else None
        if done.own_seconds >= self._long or (repeated and known is None):
            site = _calling_line()
        if repeated:
            if known is not None:
                group.loop = group.loop or known.loop
            else:
                group.loop = group.loop or _calling_loop()
                group.values = _common_values(group.values, done.execution)
                self._origins.add(key, _StatementOrigin(site, group.load, group.loop))
        if on_loop:
            self._note_block(done, group, site)
        self._add_line(done, group, site, repeated=repeated)

    def _note_block(self, done: ObservedStatement, group: StatementGroup, site: CallSite | None) -> None:
        """A synchronous statement has blocked the event loop. `site` is its line if that is known already."""
        if not group.loop_count:
            key = _origin_key(done)
            origin = self._blocking.known(key)
            if origin is None or site is not None:
                done.site = site or _calling_line()
                origin = _BlockingOrigin(done.site, _blocked_caller(done.record))
                self._blocking.add(key, origin)
            group.call_site, group.caller = origin
        group.loop_count += 1
        group.loop_seconds += done.own_seconds

    def _add_line(
        self, done: ObservedStatement, group: StatementGroup, site: CallSite | None, *, repeated: bool
    ) -> None:
        # the spans of further repeats would name the same line, at a tenth of the cost of a statement's telemetry
        if done.slow or (site is not None and site not in group.lines):
            done.site = site
        if repeated:
            line = group.lines.setdefault(site, [0, 0.0])
            line[0] += 1
            line[1] += done.own_seconds
        if done.slow:
            group.slow_count += 1
            group.slow_seconds += done.own_seconds
            if done.own_seconds > group.slowest:
                group.slowest, group.slow_call_site = done.own_seconds, site
        if done.own_seconds >= self._long and done.own_seconds > group.longest:
            group.longest, group.long_call_site = done.own_seconds, site
            group.slow_rows = _rows(done.execution)
            group.slow_look_up = _look_up_of(done)


class _StatementOrigin(NamedTuple):
    """Where a repeated statement came from when it was last looked up."""

    site: CallSite | None
    load: Load | None
    loop: CallSite | None


class _BlockingOrigin(NamedTuple):
    """Where a statement that blocks the event loop came from when it was last looked up."""

    site: CallSite | None
    caller: BlockedCaller | None


_T = TypeVar("_T")


class _Origins(Generic[_T]):
    """The origins of statements, by statement and endpoint, and how often they were looked up in this second.

    The hundredth N+1 of a second says nothing new, so its line is taken from the last one that was looked up.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[_T, int, int]] = {}

    def known(self, key: str) -> _T | None:
        """The origin to assume; None if it should be looked up."""
        found = self._last.get(key)
        if found is None:
            return None
        origin, second, number = found
        return origin if number >= _LOOK_UPS_PER_SECOND and second == int(time.monotonic()) else None

    def add(self, key: str, origin: _T) -> None:
        """Note a look-up."""
        now = int(time.monotonic())
        _, second, number = self._last.get(key, (origin, now, 0))
        if len(self._last) >= _MOST_ORIGINS and key not in self._last:
            self._last.clear()
        self._last[key] = (origin, now, number + 1 if second == now else 1)


def _calling_line() -> CallSite | None:
    """The line of the application that runs the current statement."""
    return call_site(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame


def _blocked_caller(record: RequestRecord | None) -> BlockedCaller | None:
    """The coroutine that runs the current statement."""
    found = coroutine_of(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame
    return None if found is None or record is None else BlockedCaller(*found, record.phase)


def _calling_loop() -> CallSite | None:
    """The line of the application that repeats the current statement."""
    return loop_around(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame


def _origin_key(done: ObservedStatement) -> str:
    """Identifies a statement of an endpoint: the lines of a repository are those of many endpoints."""
    endpoint = None if done.record is None else done.record.scope.get("endpoint")
    return f"{done.query.fingerprint} {id(endpoint)}"


def _common_values(known: int | None, execution: ExecutionContext) -> int | None:
    """The hash of the values of a statement, if earlier ones had the same; else 0."""
    parameters = execution.parameters[0] if execution.parameters else ()
    try:
        values = hash(tuple(parameters.items() if isinstance(parameters, Mapping) else parameters)) or 1
    except TypeError:  # a value that cannot be hashed
        return 0
    return values if known in {None, values} else 0


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


def _look_up_of(done: ObservedStatement) -> LookUp:
    """How a slow statement looked up its rows."""
    execution = done.execution
    # a list with one set of parameters
    parameters = next(iter(getattr(execution, "parameters", None) or ((),)))
    values = parameters.values() if isinstance(parameters, Mapping) else parameters
    wildcard = any(isinstance(value, str) and value[:1] in {"%", "_"} for value in values)
    unique, indexed = _indexed(execution)
    wildcard = wildcard or starts_with_wildcard(done.text)
    return LookUp(skipped=skipped_rows(done.text, parameters), unique=unique, indexed=indexed, wildcard=wildcard)


def _indexed(execution: ExecutionContext) -> tuple[frozenset[str], frozenset[str]]:
    """The unique and the indexed columns of the statement's tables; none for a textual statement."""
    unique, indexed = set[str](), set[str]()
    statement = getattr(execution.compiled, "statement", None)
    tables = () if statement is None else find_tables(statement, check_columns=True, include_crud=True)
    for table in tables:
        if isinstance(table, Table):
            constraints = (each for each in table.constraints if isinstance(each, UniqueConstraint))
            for is_unique, columns in (
                (True, table.primary_key.columns),
                *((True, constraint.columns) for constraint in constraints),
                *((bool(index.unique), index.columns) for index in table.indexes),
            ):
                names = [str(column.name).lower() for column in columns]
                indexed.update(names[:1])
                unique.update(names if is_unique and len(names) == 1 else ())
    return frozenset(unique), frozenset(indexed)
