"""Parts of a statement that help to read its plan: tables behind aliases, comparisons, sort order, limit.

Some databases omit these from their plans: SQLite shows neither conditions nor sort keys, MySQL shows aliases,
not tables. This reads words, it does not parse: what it does not recognise is left out.
"""

import re
from dataclasses import dataclass
from typing import Final

from otel_fastperf.sql.columns import NAME, PART, Comparison, comparisons, without_casts
from otel_fastperf.sql.describe import describe
from otel_fastperf.sql.keywords import keywords

#: most characters of a condition, or of a statement, that are read
_LONGEST: Final = 16 * 1024
#: columns of one index
_MOST_KEYS: Final = 3

_LONE: Final = re.compile(rf'(?<![\w"`])\(({NAME})\)')
_SOURCE: Final = re.compile(rf"(?:\bFROM|\bJOIN|,)\s+({NAME})(?:\s+AS)?\s+({PART})", re.IGNORECASE)
_ORDER: Final = re.compile(r"\bORDER BY\s+(.*?)(?=\bLIMIT\b|\bOFFSET\b|\bFETCH\b|\bFOR\b|\)|;|$)", re.IGNORECASE)
_LIMIT: Final = re.compile(r"\b(?:LIMIT|FETCH (?:FIRST|NEXT)|TOP)\b", re.IGNORECASE)
_LABEL: Final = re.compile(rf"\bAS ({PART})(?=\s*(?:,|\bFROM\b))", re.IGNORECASE)
_SUFFIX: Final = re.compile(r"\s+(?:ASC|DESC|NULLS (?:FIRST|LAST))", re.IGNORECASE)
_OR: Final = re.compile(r"\bOR\b", re.IGNORECASE)
_VALUE: Final = re.compile(r"(?:[=<>~]|\b(?:LIKE|IN|BETWEEN|IS))\s*\(?(?:[?:$%]|NOT\b|NULL\b)", re.IGNORECASE)
_WILDCARD: Final = re.compile(r"(?:~~\*?|\b(?:I?LIKE))\s+(?:[_\w]*)'[%_]", re.IGNORECASE)

_EQUAL: Final = frozenset({"=", "IN", "IS NULL"})
#: comparisons that an index can serve besides those for equality
_RANGE: Final = frozenset({"<", ">", "<=", ">=", "~~", "LIKE", "BETWEEN"})


#: words that are neither columns nor aliases
_WORDS: Final = keywords(
    "ALL AND ANY AS BETWEEN CASE CROSS DISTINCT ELSE EXCEPT EXISTS FALSE FETCH FOR FROM FULL GROUP HAVING IN INNER"
    " INTERSECT IS JOIN LATERAL LEFT LIKE LIMIT NATURAL NOT NULL OFFSET ON OR ORDER RIGHT SELECT SOME THEN TRUE UNION"
    " USING WHEN WHERE WINDOW"
)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The columns of one table that a condition compares; those compared for equality come first."""

    keys: tuple[str, ...] = ()
    either: bool = False


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """One statement, without values."""

    text: str
    dialect: str
    #: alias in lower case -> table
    tables: dict[str, str]
    #: columns of the last ORDER BY; empty if it sorts by anything else
    order: tuple[str, ...]
    limited: bool
    #: it compares something with a value, so it does not select everything
    chooses: bool
    #: it has only one table, so a column without a qualifier belongs to it
    single: bool

    def table(self, alias: str) -> str:
        """The table behind an alias."""
        return self.tables.get(alias.lower(), alias)


def statement_of(sql: str, dialect: str) -> PlannedStatement:
    """Read a statement as it was sent to the driver. Never raises."""
    query = describe(sql[:_LONGEST], dialect, max_length=_LONGEST)
    orders = [match[1] for match in _ORDER.finditer(query.text)]
    return PlannedStatement(
        text=query.text,
        dialect=dialect,
        tables=_tables(query.text),
        order=() if not orders or _has_label(orders[-1], query.text) else plain_keys(orders[-1].split(",")),
        chooses=_VALUE.search(query.text) is not None,
        limited=_LIMIT.search(query.text) is not None,
        single=bool(query.collection) and not re.search(r"\bJOIN\b", query.text, re.IGNORECASE),
    )


def scrubbed(condition: str, dialect: str) -> str:
    """The condition without values and casts: `(email = 'a@b.c'::text)` as `(email = ?)`."""
    shown = without_casts(describe(condition[:_LONGEST], dialect, max_length=_LONGEST).text)
    return " ".join(_LONE.sub(r"\1", shown).split())


def starts_with_wildcard(condition: str) -> bool:
    """True if the condition, with its values, contains a `LIKE '%…'`."""
    return _WILDCARD.search(condition[:_LONGEST]) is not None


def compared(condition: str, alias: str, *, single: bool = False, calls: bool = True) -> Comparisons:
    """The columns of the table `alias` that a scrubbed condition compares.

    With `single`, columns without a qualifier belong to that table. A function call on a column is a key too, unless
    `calls` is False: not every database supports an index on it.
    """
    found = tuple(comparisons(condition))
    equal: dict[str, None] = {}
    ranges: dict[str, None] = {}
    for comparison in found:
        key = _key(comparison, alias, single=single, calls=calls)
        if key and (comparison.operator in _EQUAL or comparison.operator in _RANGE):
            (equal if comparison.operator in _EQUAL else ranges)[key] = None
    for comparison in found:
        if comparison.right and comparison.operator == "=":
            column = _column(comparison.right, alias, single=single)
            if column:
                equal[column] = None
    either = _OR.search(condition) is not None
    only_ranges = [key for key in ranges if key not in equal]
    # only the last column of an index can serve a range
    return Comparisons((*equal, *(only_ranges if either else only_ranges[:1]))[:_MOST_KEYS], either)


def _key(comparison: Comparison, alias: str, *, single: bool, calls: bool) -> str:
    """The column on the left, or the function call on it, as a key of an index; "" if it cannot be one."""
    call = "" if comparison.call.upper() in _WORDS else comparison.call
    column = _column(comparison.column, alias, single=single) if comparison.column else ""
    if not column or (call and not calls):
        return ""
    return f"{call.lower()}({column})" if call else column


def plain_keys(keys: list[str]) -> tuple[str, ...]:
    """The columns of sort keys, without direction; empty if one is an expression."""
    columns = [_SUFFIX.sub("", key).strip() for key in keys]
    if not all(re.fullmatch(NAME, column) for column in columns):
        return ()
    return tuple(_unquoted(re.findall(PART, column)[-1]) for column in columns)[:_MOST_KEYS]


def _has_label(order: str, shown: str) -> bool:
    """True if the order uses a label of the statement: `count(*) AS c … ORDER BY c`."""
    labels = {label.lower() for label in _LABEL.findall(shown)}
    return any(name.lower() in labels for name in re.findall(PART, order))


def _column(name: str, alias: str, *, single: bool) -> str:
    parts = re.findall(PART, name)
    column = _unquoted(parts[-1])
    if len(parts) == 1:
        return column if single and column.upper() not in _WORDS else ""
    return column if _bare(parts[-2]).lower() == alias.lower() else ""


def _bare(part: str) -> str:
    return part[1:-1] if part[:1] in {'"', "`", "["} else part


def _unquoted(part: str) -> str:
    """The part without unnecessary quotes."""
    bare = _bare(part)
    return bare if re.fullmatch(r"[a-z_][a-z0-9_]*", bare) else part


def _tables(shown: str) -> dict[str, str]:
    found = {}
    for table, alias in _SOURCE.findall(shown):
        if alias.upper() not in _WORDS and table.upper() not in _WORDS:
            found[_bare(alias).lower()] = ".".join(_bare(part) for part in re.findall(PART, table))
    return found
