"""Results with many rows: how many, whether they become instances of the ORM, and the line that fetched them.

A driver that has read all rows when a statement has ended is asked for their number then, if the statement took as long
as many rows take. Other drivers, such as SQLite's, read them later: the result gets a strategy that counts what
`fetchall` returns, which is what SQLAlchemy calls for `all()`, `scalars()` and entities. Rows that are fetched one by
one or in parts, as for `yield_per` and streams, are not counted: they are not in memory at once.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import CursorResult
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.engine.cursor import CursorFetchStrategy
from sqlalchemy.engine.interfaces import DBAPICursor

from otel_fastperf.instrumentation.observed_statement import ObservedStatement
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.guard import Guard
from otel_fastperf.requests.record import StatementGroup
from otel_fastperf.sql.orm_loads import loaded_class

#: seconds; the fastest driver takes longer for a thousand rows
_WORTH_A_LOOK: Final = 0.0003
#: attribute of an execution context that carries its `StatementGroup`
_GROUP: Final = "_fastperf_group"


class LargeResults:
    """Notes results of at least `least` rows on the groups of their statements."""

    def __init__(self, least: int, guard: Guard) -> None:
        self._least = least
        self._counted = _CountedFetch(least, self._fetched, guard)

    def look(self, done: ObservedStatement, group: StatementGroup) -> None:
        """Note the rows of a SELECT that has ended, or have them counted when they are fetched."""
        execution: Any = done.execution
        if done.engine.reads_rows_late:
            if type(execution.cursor_fetch_strategy) is CursorFetchStrategy and not _streams(execution):
                setattr(execution, _GROUP, group)
                execution.cursor_fetch_strategy = self._counted
        elif done.seconds >= _WORTH_A_LOOK and not _streams(execution):
            rows = max(execution.cursor.rowcount, len(getattr(execution.cursor, "_rows", ())))
            if rows >= self._least:
                _note(group, rows, execution)

    def _fetched(self, execution: ExecutionContext, rows: int) -> None:
        group = getattr(execution, _GROUP, None)
        if group is not None:
            _note(group, rows, execution)


class _CountedFetch(CursorFetchStrategy):
    """SQLAlchemy's own strategy, which passes on the number of rows that `fetchall` returned if they are many."""

    __slots__ = ("_fetched", "_guard", "_least")

    def __init__(self, least: int, fetched: Callable[[ExecutionContext, int], None], guard: Guard) -> None:
        self._least = least
        self._fetched = fetched
        self._guard = guard

    def fetchall(self, result: CursorResult[Any], dbapi_cursor: DBAPICursor) -> Any:
        rows = super().fetchall(result, dbapi_cursor)
        if len(rows) >= self._least:
            try:
                self._fetched(result.context, len(rows))
            except Exception as error:  # noqa: BLE001 - costs the evidence, not the rows
                self._guard.failed("database", error)
        return rows


def _streams(execution: Any) -> bool:
    """True if the rows are read in parts: SQLAlchemy chooses a strategy for that if there is no other."""
    return bool(execution._is_server_side or execution.execution_options.get("stream_results"))  # noqa: SLF001


def _note(group: StatementGroup, rows: int, execution: ExecutionContext) -> None:
    group.rows += rows
    if group.rows_site is None:
        group.rows_site = call_site(sys._getframe(1))  # noqa: SLF001 - there is no other way to a frame
        group.rows_class = loaded_class(execution)
