"""How a slow statement looks up its rows, and what would make that faster: an index, if one is missing."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_fastperf.sql.columns import Comparison, conditions_of, has_conditions
from otel_fastperf.sql.describe import QueryText
from otel_fastperf.sql.outline import shown_name
from otel_fastperf.sql.paging import keyset, order_of, skips_most

#: most columns of an index
_MOST_COLUMNS: Final = 4
_EQUAL: Final = frozenset({"=", "IN"})
_PATTERNS: Final = frozenset({"LIKE", "ILIKE", "~~"})
_SERVED: Final = _EQUAL | frozenset({"<", ">", "<=", ">=", "BETWEEN", "LIKE", "~~"})
_LOCKS: Final = re.compile(r"\bFOR\s+(?:UPDATE|NO KEY UPDATE|SHARE|KEY SHARE)\b|\bLOCK IN SHARE MODE\b", re.IGNORECASE)
_OR: Final = re.compile(r"\bOR\b", re.IGNORECASE)
_IN_QUERY: Final = re.compile(r"\bIN\s*\(\s*(?:SELECT|WITH)\b", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\b(?:LIMIT|FETCH|TOP)\b", re.IGNORECASE)
#: a statement that returns one row, whatever it reads
_AGGREGATE: Final = re.compile(r"SELECT\s+(?:count|sum|min|max|avg|exists|coalesce)\s*\(", re.IGNORECASE)
_GROUPED: Final = re.compile(r"\bGROUP\s+BY\b", re.IGNORECASE)
#: rows that nobody calls many
_FEW_ROWS: Final = 1_000

_WAITS: Final = (
    "Find out what it waits for: a lock that another transaction keeps (commit that one sooner), or a database that is"
    " busy with other statements."
)


class LookUp(NamedTuple):
    """What is known of the slowest execution of a statement besides its text.

    Attributes:
        skipped: Rows that its OFFSET skipped.
        unique: Columns that identify a row alone, as the tables are declared to SQLAlchemy: the primary key, and unique
            ones. Without their tables and in lower case.
        indexed: The same for columns with which any key or index begins.
        wildcard: A value that it compares is a pattern that starts with a wildcard.
    """

    skipped: int = 0
    unique: frozenset[str] = frozenset()
    indexed: frozenset[str] = frozenset()
    wildcard: bool = False


def remedy_of(query: QueryText, look_up: LookUp, rows: int) -> str:
    """What to do about the statement; `rows` is the number that it returned, -1 if the driver does not know it."""
    if skips_most(look_up.skipped, rows):
        return (
            f"Page by keyset instead of OFFSET, which reads {look_up.skipped:,} rows to throw them away:"
            f" {keyset(query.text)}, with an index in that order."
        )
    if _brings_its_rows(query):
        return f"An INSERT looks up no rows, so no index helps. {_WAITS}"
    keys = tuple(_keys(query.text, look_up))
    found = _unique_key(keys, query, look_up)
    if found is not None:
        return f"{found.name} has a unique index, so another one does not help. {_WAITS}{_fewer(query, rows)}"
    advice = _advice(keys, query, look_up)
    lock = " If it waits for a lock, commit the transaction that keeps it sooner." if _LOCKS.search(query.text) else ""
    return f"{advice}{_fewer(query, rows)}{lock}"


def finds_one_row(query: QueryText, look_up: LookUp) -> bool:
    """True if the statement looks up a single row by a column that identifies it, or none since it brings its own."""
    return _brings_its_rows(query) or _unique_key(tuple(_keys(query.text, look_up)), query, look_up) is not None


def _brings_its_rows(query: QueryText) -> bool:
    """An INSERT of values, not of what a query reads."""
    return query.operation == "INSERT" and "SELECT" not in query.summary


def _unique_key(keys: tuple["_Key", ...], query: QueryText, look_up: LookUp) -> "_Key | None":
    """The key that finds a single row, whatever else is compared."""
    if _OR.search(query.text):
        return None
    return next((key for key in keys if key.chosen and key.equal and key.is_in(look_up.unique)), None)


class _Key(NamedTuple):
    """A column, or a function call on it, that an index could serve."""

    table: str
    name: str
    #: it is compared for equality
    equal: bool
    #: it is compared with a value, not with another column
    chosen: bool

    def is_in(self, columns: frozenset[str]) -> bool:
        """True if it is one of these columns."""
        return self.name.rpartition(".")[2].lower() in columns


def _keys(text: str, look_up: LookUp) -> Iterator[_Key]:
    # the rows that a subquery chooses are not known
    of_values = _IN_QUERY.search(text) is None
    for comparison in conditions_of(text):
        if comparison.inner or not _can_be_served(comparison, look_up):
            continue
        in_values = comparison.operator == "BETWEEN" or (comparison.operator == "IN" and of_values)
        chosen = comparison.with_value or in_values
        for name in (comparison.column, comparison.right):
            if name and (name == comparison.column or "." in name or comparison.with_value):
                shown = shown_name(name)
                call = f"{comparison.call}({shown})" if comparison.call and name == comparison.column else shown
                yield _Key(shown.rpartition(".")[0], call, comparison.operator in _EQUAL, chosen)


def _can_be_served(comparison: Comparison, look_up: LookUp) -> bool:
    if comparison.operator in _PATTERNS and look_up.wildcard:
        return False
    return comparison.operator in _SERVED


def _index_on(wanted: list[_Key], query: QueryText, look_up: LookUp) -> str:
    table = wanted[0].table
    of_table = [key for key in wanted if key.table == table]
    # columns that are compared for equality come first, and one range can follow them
    ranges = [key.name for key in of_table if not key.equal][:1]
    names = dict.fromkeys([*(key.name for key in of_table if key.equal), *ranges])
    if all(key.is_in(look_up.indexed) for key in of_table):
        return f"{' or '.join(names)} has an index already. Check in the plan that it is used."
    if len(names) > 1 and _OR.search(query.text):
        return f"Add an index on each of {', '.join(list(names)[:_MOST_COLUMNS])}: they are alternatives (OR)."
    return f"Add an index on ({', '.join(list(names)[:_MOST_COLUMNS])})."


def _advice(keys: tuple[_Key, ...], query: QueryText, look_up: LookUp) -> str:
    wanted = [key for key in keys if key.chosen] or [key for key in keys if not key.is_in(look_up.indexed)]
    if wanted:
        return _index_on(wanted, query, look_up)
    if any(comparison.operator in _PATTERNS for comparison in conditions_of(query.text)):
        return (
            "An ordinary index does not help with a pattern that starts with a wildcard: use a full-text or trigram"
            " index, or a pattern without it."
        )
    if keys:
        return "The columns that it joins by have indexes already. Join fewer rows: filter before the join."
    if not has_conditions(query.text):
        return _advice_without_conditions(query, look_up)
    return "Run EXPLAIN to see which rows it reads; an index helps if most of them are thrown away."


def _advice_without_conditions(query: QueryText, look_up: LookUp) -> str:
    if query.operation in {"UPDATE", "DELETE"}:
        return "It changes all rows: change only those that differ, or some thousands at a time."
    if query.operation != "SELECT" or not query.collection:
        return "Run EXPLAIN to see what it does."
    order = order_of(query.text)
    if order and _LIMIT.search(query.text) and order[0].rpartition(".")[2].lower() not in look_up.indexed:
        return f"Add an index on ({', '.join(order)}): in its order, the first rows are found without a sort."
    return "It has no condition that an index could serve: read fewer rows, or keep its result for a while."


def _fewer(query: QueryText, rows: int) -> str:
    """A further remedy if it may be the number of rows that takes the time."""
    one_row = _AGGREGATE.match(query.text) and not _GROUPED.search(query.text)
    if query.operation != "SELECT" or one_row or _LIMIT.search(query.text) or 0 <= rows < _FEW_ROWS:
        return ""
    return " Or limit() the number of rows."
