"""What detectors need of a statement: its place in its request's record, and the line that ran it if that may matter.

Equal statements of a request are one `StatementGroup`, and each execution is an interval of the time budget. Finding
the line that ran a statement costs as much as everything else together, so it is looked up only where something may be
wrong: on repeats, above the slow-query threshold, and on the event loop's thread.
"""

import asyncio
import sys
import threading
import time
from typing import Final, NamedTuple

from sqlalchemy.engine import ExecutionContext

from otel_fastperf.findings import CallSite
from otel_fastperf.instrumentation.observed_statement import ObservedStatement
from otel_fastperf.internals.frames import call_site
from otel_fastperf.requests.record import MOST_STATEMENTS, RequestRecord, StatementGroup
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.signals import Signals
from otel_fastperf.sql.orm_loads import ONE_BY_ONE, OTHER, Load, load_of

#: most repeats of a statement whose line is looked up; later ones are assumed to come from the same line
_MOST_LOOK_UPS: Final = 100
#: look-ups of repeats of one statement per second
_LOOK_UPS_PER_SECOND: Final = 50
#: statements whose origin is remembered
_MOST_ORIGINS: Final = 1024
#: operations that read or write rows
_REPEATABLE: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "CALL", "EXECUTE"})


class StatementEvidence:
    """Notes the statements of one telemetry on the records of their requests."""

    def __init__(self, signals: Signals, *, n_plus_one: int) -> None:
        """`n_plus_one` is the setting: the number of repeats that make a finding."""
        self._signals = signals
        # half of the repeats are enough to tell whether they come from the same line
        self._looks_up_from = max(2, n_plus_one // 2)
        self._origins = _Origins()
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

    def _look_up(self, done: ObservedStatement, group: StatementGroup, *, on_loop: bool) -> None:
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
        self, done: ObservedStatement, group: StatementGroup, site: CallSite | None, *, repeated: bool, on_loop: bool
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


def _calling_line() -> CallSite | None:
    """The line of the application that runs the current statement."""
    return call_site(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame


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
