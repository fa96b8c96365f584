"""Comments that the database sees: the route that a statement runs for, and the trace.

    SELECT … /*route='/orders/{order_id}',traceparent='00-…-…-01'*/

The form is sqlcommenter's: https://google.github.io/sqlcommenter/spec/. Only characters that mean nothing in a comment,
to a driver's formatting or to sqlcommenter's encoding get into it, so that no value can end it.
"""

import re
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import format_span_id, format_trace_id, get_current_span
from sqlalchemy.engine import ExecutionContext

from otel_fastperf.instrumentation.observed_statement import ObservedStatement
from otel_fastperf.internals.guard import Guard
from otel_fastperf.settings import SqlComments

#: drivers that keep nothing by the text of a statement, on databases that do not either. Others prepare each new text,
#: or cache its plan: asyncpg, psycopg, sqlite3, and those of Oracle and SQL Server
_KEEP_NOTHING: Final = frozenset(
    {"aiomysql", "asyncmy", "mariadbconnector", "mysqlconnector", "mysqldb", "psycopg2", "pymysql"}
)
_MEANINGFUL: Final = re.compile(r"[^A-Za-z0-9_.~/{}:-]")


class StatementComments:
    """Adds comments to the statements of one telemetry."""

    def __init__(self, kind: SqlComments, guard: Guard) -> None:
        """`kind`: a setting other than `off`."""
        self._guard = guard
        self._traces = kind != "route"
        self._everywhere = kind == "traceparent_everywhere"

    def added(self, statement: ObservedStatement, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of `do_execute`, with the text as it is sent."""
        try:
            text, execution = arguments[1], arguments[-1]
            comment = self._comment(statement, execution)
            # the specification leaves alone what has a comment; it may be a hint, or that of another library
            if not comment or execution.isddl or "/*" in text:
                return arguments
            return (arguments[0], f"{text} /*{comment}*/", *arguments[2:])
        except Exception as error:  # noqa: BLE001 - the statement runs without its comment
            self._guard.failed("sql_comments", error)
            return arguments

    def _comment(self, statement: ObservedStatement, execution: ExecutionContext) -> str:
        route = None if statement.record is None else statement.record.route
        parts = [f"route='{_MEANINGFUL.sub('_', route)}'"] if route else []
        if self._traces and (self._everywhere or execution.dialect.driver in _KEEP_NOTHING):
            parts += _traceparent(statement.context)
        return ",".join(parts)


def _traceparent(context: Context) -> list[str]:
    """That of the span around the statement, if it is recorded."""
    span = get_current_span(context).get_span_context()
    if not span.is_valid or not span.trace_flags.sampled:
        return []
    return [f"traceparent='00-{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}-01'"]
