"""Pages by OFFSET: how many rows a statement skips, and the keyset condition that would skip none."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from otel_fastperf.sql.columns import NAME
from otel_fastperf.sql.outline import shown_name

_MARKER: Final = r"\d++|\?|\$\d++|%s|%\([^()]*+\)s|:\w++|@\w++"
#: the standard form and PostgreSQL's; MySQL's, in which the number of skipped rows comes first
_OFFSET: Final = re.compile(rf"\bOFFSET\s++({_MARKER})|\bLIMIT\s++({_MARKER})\s*+,", re.IGNORECASE)
_POSITIONAL: Final = re.compile(r"\?|%s")
_ORDER: Final = re.compile(r"\bORDER BY\s++(.*?)\s*+(?:\bLIMIT\b|\bOFFSET\b|\bFETCH\b|$)", re.IGNORECASE)
_KEY: Final = re.compile(rf"({NAME})(?:\s++(ASC|DESC))?(?:\s++NULLS\s++\w++)?", re.IGNORECASE)

#: rows that are skipped without anybody noticing
_FEW: Final = 1_000
#: skipped rows per returned one from which they are most of the work
_DOMINATE: Final = 10
#: rows of a page, if the driver does not know them
_PAGE: Final = 100


def skipped_rows(statement: str, parameters: Any) -> int:
    """The number of rows that the last OFFSET of a statement skips, which ran with these parameters; 0 if unknown."""
    match = next(iter([*_OFFSET.finditer(statement)][-1:]), None)
    if match is None:
        return 0
    marker, at = (match[1], match.start(1)) if match[1] else (match[2], match.start(2))
    value = int(marker) if marker.isdigit() else _given(statement, marker, at, parameters)
    return value if isinstance(value, int) and value > 0 else 0


def _given(statement: str, marker: str, at: int, parameters: Any) -> Any:
    if isinstance(parameters, Mapping):
        return parameters.get(marker.strip("$:@%()s") if marker[0] == "%" else marker[1:])
    if not isinstance(parameters, Sequence):
        return None
    number = int(marker[1:]) - 1 if marker[0] == "$" else len(_POSITIONAL.findall(statement, 0, at))
    return parameters[number] if 0 <= number < len(parameters) else None


def skips_most(skipped: int, returned: int) -> bool:
    """True if the skipped rows are most of the work; `returned` is -1 if it is unknown."""
    return skipped >= _FEW and skipped >= _DOMINATE * (_PAGE if returned < 0 else returned)


def order_of(text: str) -> list[str]:
    """The columns of the last ORDER BY, without directions; empty if it sorts by anything else."""
    return [column for column, _ in _sort_keys(text)]


def _sort_keys(text: str) -> list[tuple[str, str]]:
    """Columns and directions (`ASC`, `DESC` or nothing)."""
    orders = _ORDER.findall(text)
    keys = [_KEY.fullmatch(key.strip()) for key in orders[-1].split(",")] if orders else []
    known = [(shown_name(key[1]), (key[2] or "").upper()) for key in keys if key is not None]
    return known if len(known) == len(keys) else []


def keyset(text: str) -> str:
    """The clauses of the next page by keyset, in the order of the statement, whose `QueryText.text` is given."""
    known = _sort_keys(text) or [("id", "")]
    directions = {direction == "DESC" for _, direction in known}
    columns = ", ".join(column for column, _ in known)
    order = ", ".join(f"{column} {direction}".rstrip() for column, direction in known)
    left, right = (f"({columns})", "(:last, …)") if len(known) > 1 else (columns, ":last")
    operator = "<" if directions == {True} else ">"
    return f"WHERE {left} {operator} {right} ORDER BY {order} LIMIT n"
