"""The columns that conditions compare: of a statement, and of the conditions that a database shows in a plan.

There is one expression for a comparison. Its users differ in which comparisons they accept.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from otel_fastperf.sql.keywords import keywords
from otel_fastperf.sql.outline import CLAUSES, shown_name

#: one part of a name: plain or in quotes
PART: Final = r'(?:[^\W\d][\w$]*+|"[^"]++"|`[^`]++`|\[[^\[\]]++\])'
#: a name with its qualifiers
NAME: Final = rf"(?:{PART}\.)*+{PART}"

_OPERAND: Final = rf"(?<![\w$.\"`\]])(?:(?P<call>[^\W\d]\w*+)\((?P<argument>{NAME})\)|(?P<name>{NAME})(?P<inner>\)?))"
#: a literal or a bind marker
_MARKER: Final = r"\?|[$:@][\w]++|%s|%\([^()]*+\)s"
_OPERATOR: Final = (
    r"(?P<operator>(?<![-+*/<>=!~@&|#%^])(?:<=|>=|<>|!=|==?|<|>|~~)(?![*/<>=!~@&|#%^])"
    r"|\b(?:NOT\s++)?(?:I?LIKE|IN|BETWEEN)\b|\bIS\s++NULL\b)"
)
_COMPARISON: Final = re.compile(
    rf"(?:(?:{_OPERAND}|(?P<given>{_MARKER}))\s*+)?{_OPERATOR}\s*+"
    rf"(?:(?P<right>{NAME})(?!\s*+\(|[\w.])|(?P<value>[?$:%@]))?",
    re.IGNORECASE,
)
_CONDITIONS: Final = re.compile(r"\b(?:WHERE|ON|HAVING)\b", re.IGNORECASE)
#: the type of a cast: `::INTEGER`, `::numeric(10, 2)`, `::"Mood"[]`, `::timestamp with time zone`
_TYPE: Final = rf"{NAME}(?: varying| precision)?(?:\([?\d, ]*+\))?(?: with(?:out)? time zone)?(?:\[\d*+\])*+"
_CAST: Final = re.compile(rf"\s*+::\s*+{_TYPE}", re.IGNORECASE)
#: SQL's own notation, around a name or a value
_CAST_CALL: Final = re.compile(rf"\bCAST\(\s*+({NAME}|{_MARKER})\s++AS\s++{_TYPE}\s*+\)", re.IGNORECASE)
_NO_COLUMNS: Final = CLAUSES | keywords("AND OR NOT BY AS CASE WHEN THEN ELSE END NULL IN LIKE")


class Comparison(NamedTuple):
    """One comparison, with names as they are written.

    Attributes:
        column: The name on the left; "" if it is not a name.
        call: The function that is applied to the column; "" if none is.
        inner: The column ends a longer expression in parentheses, whose result is compared.
        operator: In upper case: `=`, `<`, `>`, `<=`, `>=`, `<>`, `!=`, `~~`, `IS NULL`; `LIKE`, `ILIKE`, `IN` or
            `BETWEEN`, also with the prefix `NOT `.
        right: The name on the right; "" if it is not a name.
        with_value: The right side starts with a literal or a bind marker, or the left side is one.
    """

    column: str
    call: str
    inner: bool
    operator: str
    right: str
    with_value: bool


def comparisons(condition: str) -> Iterator[Comparison]:
    """All comparisons of a condition without literals, in time linear in its length."""
    for match in _COMPARISON.finditer(condition):
        operator = " ".join(match["operator"].upper().split())
        yield Comparison(
            column=match["argument"] or match["name"] or "",
            call=match["call"] or "",
            inner=bool(match["inner"]),
            operator="=" if operator == "==" else operator,
            right=match["right"] or "",
            with_value=match["value"] is not None or match["given"] is not None,
        )


def without_casts(text: str) -> str:
    """The text without casts: `a = $1::INTEGER` as `a = $1`, and `CAST(a AS TEXT) = ?` as `a = ?`."""
    return _CAST.sub("", _CAST_CALL.sub(r"\1", text))


def compared_columns(text: str) -> list[str]:
    """The columns that the conditions of a statement compare, as they are written there, each once.

    `text` is a `QueryText.text`. A column whose value is not compared itself, as in `lower(name) = ?`, is left out.
    """
    names: list[str] = []
    for comparison in conditions_of(text):
        if comparison.operator != "IS NULL":
            if comparison.column and not comparison.call and not comparison.inner:
                names.append(comparison.column)
            # a right side without a qualifier may be a keyword, unless a value is compared with it
            if comparison.right and ("." in comparison.right or comparison.with_value):
                names.append(comparison.right)
    return list(dict.fromkeys(shown_name(name) for name in names if name.upper() not in _NO_COLUMNS))


def column_of_one_value(text: str) -> str:
    """The first column that the conditions of a statement compare with one value, as it is written; "" if none is."""
    return next(
        (
            comparison.column or comparison.right
            for comparison in conditions_of(text)
            if comparison.operator == "=" and comparison.with_value and not comparison.call and not comparison.inner
        ),
        "",
    )


def has_conditions(text: str) -> bool:
    """True if a condition or a limit chooses rows."""
    return _CONDITIONS.search(text) is not None


def conditions_of(text: str) -> Iterator[Comparison]:
    """The comparisons in the conditions of a statement, without casts."""
    conditions = _CONDITIONS.search(text)
    return iter(()) if conditions is None else comparisons(without_casts(text[conditions.end() :]))
