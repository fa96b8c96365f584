"""A SQL statement as tokens: literals become `?`, comments disappear, lists of values shrink to one value.

Reading takes time linear in the length of the statement, and every string has tokens, valid SQL or not.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

#: kind, text as shown, and the gap before it ("" or " "). Kinds: value, bind, name, cast, mark, operator.
Token: TypeAlias = tuple[str, str, str]


def tokens_of(statement: str, dialect: str = "") -> list[Token]:
    """The tokens of a statement in SQLAlchemy's dialect of that name.

    `IN (?, ?, ?)` becomes `IN (?)`, and only the first row of a `VALUES` list is kept.
    """
    rules = _DIALECTS.get(dialect, _UNKNOWN)
    tokens = _tokens(statement, _grammar(rules))
    return _collapsed(_told_apart(tokens) if rules.doubtful else tokens)


# --- reading ----------------------------------------------------------------------------------------------------------

# Every quantifier that could backtrack is possessive, so reading takes linear time. A literal without an end extends to
# the end of the text.
_STANDARD: Final = r"'(?:[^']++|'')*+'?"
_ESCAPED: Final = r"'(?:[^'\\]++|''|\\.)*+\\?'?"
_AMBIGUOUS: Final = r"'(?:[^'\\]++|''|\\(?:\\|(?!')))*+(?:'|.*)"
_ESCAPED_DOUBLE: Final = r'"(?:[^"\\]++|""|\\.)*+\\?"?'
#: BigQuery's: three quotes of a kind, and prefixes for raw text and for bytes
_TRIPLE: Final = r"""[rRbB]{0,2}+(?:'''.*?(?:'''|\Z)|\"\"\".*?(?:\"\"\"|\Z))"""
_PREFIXED: Final = rf"[rRbB]{{1,2}}+(?:{_ESCAPED}|{_ESCAPED_DOUBLE})"
_DOLLAR: Final = r"\$(?P<tag>(?:[^\W\d]\w*+)?)\$.*?(?:\$(?P=tag)\$|\Z)"
_ORACLE: Final = (
    r"[nN]?[qQ]'(?:\[.*?(?:\]'|\Z)|\{.*?(?:\}'|\Z)|<.*?(?:>'|\Z)|\(.*?(?:\)'|\Z)|(?P<quote>\S).*?(?:(?P=quote)'|\Z))"
)

_DOUBLE: Final = r'"(?:[^"]++|"")*+"'
_BACKTICK: Final = r"`(?:[^`]++|``)*+`"
_BRACKET: Final = r"\[(?:[^\]]++|\]\])*+\]"

_FLAT_COMMENT: Final = r"/\*(?:[^*]++|\*(?!/))*+(?:\*/)?+"
_INNERMOST_COMMENT: Final = r"/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/"
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class _Rules:
    """How a dialect writes its tokens, as regular expressions (except `nested`)."""

    #: strings in single quotes
    string: str = _STANDARD
    #: literals in other quotes
    strings: tuple[str, ...] = ()
    #: identifiers in quotes
    quotes: tuple[str, ...] = (_DOUBLE, _BACKTICK)
    #: what is in double quotes may be a string
    doubtful: bool = False
    #: a comment to the end of the line
    comment: str = r"--[^\n]*+"
    #: block comments can be nested
    nested: bool = False
    #: numbered bind markers
    numbered: str = r"\$\d++|:\d++"


_POSTGRESQL: Final = _Rules(strings=(_DOLLAR,), comment=r"--[^\n\r]*+", nested=True, numbered=r"\$\d++")
_MYSQL: Final = _Rules(
    string=_ESCAPED,
    strings=(_ESCAPED_DOUBLE,),
    quotes=(_BACKTICK,),
    comment=r"--(?=[\s\x00-\x20]|\Z)[^\n]*+|#[^\n]*+",
)
#: dialects of Google's and Hadoop's warehouses: strings in both kinds of quotes
_WAREHOUSE: Final = _Rules(
    string=_ESCAPED,
    strings=(_TRIPLE, _PREFIXED, _ESCAPED_DOUBLE),
    quotes=(_BACKTICK,),
    comment=r"(?:--|#)[^\n]*+",
    numbered=r":\d++",
)
_UNKNOWN: Final = _Rules(string=_AMBIGUOUS, strings=(_DOLLAR,), doubtful=True)
_DIALECTS: Final = {
    "postgresql": _POSTGRESQL,
    "cockroachdb": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    # a name in double quotes that no column has is a string there: https://www.sqlite.org/quirks.html#dblquote
    "sqlite": _Rules(quotes=(_DOUBLE, _BACKTICK, _BRACKET), numbered=r"\?\d++|:\d++", doubtful=True),
    **dict.fromkeys(("bigquery", "spark", "databricks", "hive", "impala"), _WAREHOUSE),
    # `$12` is an amount of money there, never a bind marker
    "mssql": _Rules(quotes=(_DOUBLE, _BRACKET), nested=True, numbered=r":\d++"),
    "oracle": _Rules(strings=(_ORACLE,), quotes=(_DOUBLE,), numbered=r":\d++"),
}


@cache
def _grammar(rules: _Rules) -> re.Pattern[str]:
    """The expression for any token. Made when a dialect is first seen, since compiling takes some milliseconds."""
    part = "|".join((r"[^\W\d][\w$]*+", *rules.quotes))
    unended = "".join(quote[: 2 if quote[0] == "\\" else 1] for quote in rules.quotes)
    prefixed = (rules.string, rf"[nNbBxX]{rules.string}", rf"[uU]&{rules.string}", rf"[eE]{_ESCAPED}")
    values = "|".join((*rules.strings, *prefixed))
    block = _INNERMOST_COMMENT if rules.nested else _FLAT_COMMENT
    return re.compile(
        r"\s*+(?:"
        rf"(?P<value>{values}|\.?\d(?:[\w.]|(?<=[eE])[+-](?=\d))*+)"
        rf"|(?P<name>(?:{part})(?:\.\.?(?:{part}))*+)"
        r"|(?P<mark>[(),;])"
        rf"|(?P<space>{rules.comment}|{block}|\Z)"
        rf"|(?P<unended>[{unended}].*)"
        r"|(?P<nest>/\*)"
        r"|(?P<cast>::)"
        rf"|(?P<bind>{rules.numbered}|\?|%s(?!\w)|%\([^\W\d][\w.-]*+\)s|[$:][^\W\d]\w*+|@@?[^\W\d][\w$]*+)"
        r"|(?P<operator>[=<>!|&^~+*]++|\S))",
        re.DOTALL,
    )


def _tokens(statement: str, grammar: re.Pattern[str]) -> list[Token]:
    """The tokens of the statement without comments; every literal is a `?`."""
    tokens: list[Token] = []
    position: int | None = 0
    while position is not None:
        position = _read(statement, position, grammar, tokens)
    return tokens


def _read(statement: str, position: int, grammar: re.Pattern[str], tokens: list[Token]) -> int | None:
    """Read up to the end (returns None) or to the end of a nested comment (returns its position)."""
    comment = position > 0
    for match in grammar.finditer(statement, position):
        kind = match.lastgroup or ""
        if kind == "space":
            comment = True
            continue
        if kind == "nest":
            return _comment_end(statement, match.start(kind))
        shown = match[kind]
        gap = " " if comment or len(shown) < len(match[0]) else ""
        tokens.append(("value", "?", gap) if kind in _LITERALS else (kind, shown, gap))
        comment = False
    return None


_LITERALS: Final = frozenset({"value", "unended"})


def _comment_end(statement: str, start: int) -> int:
    """The end of the nested comment that starts at `start`."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(statement, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    return len(statement)


# --- names or strings -------------------------------------------------------------------------------------------------

#: words after which names follow, to the next of these words
_NAMES_FOLLOW: Final = frozenset(
    {"FROM", "JOIN", "INTO", "UPDATE", "TABLE", "INDEX", "VIEW", "TRIGGER", "BY", "WITH", "USING", "RETURNING"}
    | {"CONFLICT", "PRAGMA", "SAVEPOINT", "REFERENCES", "COLUMN"}
)
_VALUES_FOLLOW: Final = frozenset(
    {"SELECT", "VALUES", "WHERE", "HAVING", "ON", "LIMIT", "OFFSET", "SET", "DEFAULT", "CHECK", "WHEN", "THEN", "ELSE"}
)
#: words before a single name
_BEFORE_A_NAME: Final = frozenset({"AS", "COLLATE", "EXISTS"})
#: words whose parentheses hold arguments, not names
_SOURCES: Final = frozenset({"FROM", "JOIN", "BY"})
#: what follows a column in a condition
_AFTER_A_COLUMN: Final = frozenset(
    {"=", "==", "<", ">", "<=", ">=", "<>", "!=", "IN", "NOT", "IS", "LIKE", "GLOB", "BETWEEN", "REGEXP", "MATCH"}
)
_BEFORE_A_COLUMN: Final = frozenset({"WHERE", "AND", "OR", "NOT", "ON", "HAVING", "SET", "WHEN", "(", ","})


def _told_apart(tokens: list[Token]) -> list[Token]:
    """Replace what stands in double quotes by `?`, except where only a name can stand."""
    if not any(shown[0] == '"' for _, shown, _ in tokens):
        return tokens
    told: list[Token] = []
    clause, outer, before = "", [], ""
    for number, (kind, shown, gap) in enumerate(tokens):
        told.append((kind, shown, gap))
        word = shown.upper()
        if shown == "(":
            outer.append(clause)
            clause = "ARGUMENTS" if clause in _SOURCES and number and tokens[number - 1][0] == "name" else clause
        elif shown == ")":
            clause = outer.pop() if outer else ""
        elif word in _NAMES_FOLLOW or word in _VALUES_FOLLOW:
            clause = word
        elif kind == "name" and _is_lone(shown):
            following = tokens[number + 1][1].upper() if number + 1 < len(tokens) else ""
            compared = following in _AFTER_A_COLUMN and before in _BEFORE_A_COLUMN
            if not (compared or before in _BEFORE_A_NAME or clause in _NAMES_FOLLOW):
                told[-1] = ("value", "?", gap)
        before = word
    return told


def _is_lone(name: str) -> bool:
    """True for a name in double quotes without a qualifier."""
    return name[0] == name[-1] == '"' and '"' not in name[1:-1].replace('""', "")


# --- value lists ------------------------------------------------------------------------------------------------------


def _collapsed(tokens: list[Token]) -> list[Token]:
    """`IN (?, ?, ?)` becomes `IN (?)`; of the rows of a `VALUES` list the first stays."""
    kept: list[Token] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        kept.append(token)
        position += 1
        if token[0] == "name" and token[1].upper() in _LIST_WORDS and _shown(tokens, position) == "(":
            position = _collapse(tokens, position, kept, in_list=len(token[1]) == len("IN"))
    return kept


_LIST_WORDS: Final = frozenset({"IN", "VALUES"})


def _collapse(tokens: list[Token], position: int, kept: list[Token], *, in_list: bool) -> int:
    """Append the short form of the list at `position` to `kept`; return the position after the list."""
    if not in_list:
        end = _close(tokens, position)
        kept.extend(tokens[position:end])
        return _rows_end(tokens, end)
    end = _values_end(tokens, position)
    if end > position:
        kept.extend((tokens[position], ("value", "?", ""), ("mark", ")", "")))
    return end


def _shown(tokens: list[Token], position: int) -> str:
    return tokens[position][1] if position < len(tokens) else ""


def _close(tokens: list[Token], position: int) -> int:
    """The position after the parenthesis that closes the one at `position`."""
    depth = 0
    for at in range(position, len(tokens)):
        depth += _DEPTH.get(tokens[at][1], 0)
        if not depth:
            return at + 1
    return len(tokens)


_DEPTH: Final = {"(": 1, ")": -1}


def _rows_end(tokens: list[Token], position: int) -> int:
    """The position after all further rows of a `VALUES` list."""
    while _shown(tokens, position) == "," and _shown(tokens, position + 1) == "(":
        position = _close(tokens, position + 1)
    return position


def _values_end(tokens: list[Token], position: int) -> int:
    """The position after a list that has values only; `position` if it contains anything else.

    Values are literals, binds, constants, rows of them, and casts of them (`$1::VARCHAR(10)`).
    """
    depth, cast = 0, False
    for at in range(position, len(tokens)):
        kind, shown, _ = tokens[at]
        depth += _DEPTH.get(shown, 0)
        if not depth:
            return at + 1 if at > position + 1 else position
        cast = kind == "cast" or (cast and shown != ",")
        if not (cast or kind in {"value", "bind"} or shown.upper() in _VALUE_WORDS):
            return position
    return len(tokens)


_VALUE_WORDS: Final = frozenset({"(", ")", ",", "+", "-", "NULL", "TRUE", "FALSE"})
