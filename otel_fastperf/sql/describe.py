"""From a SQL statement to what telemetry may show of it: text without values, summary, operation, table, fingerprint.

The text keeps bind markers and identifiers and loses literals and comments. The summary follows OpenTelemetry's
"Generating a summary of the query" (semconv, docs/db/database-spans.md): verbs and their tables in the order of the
statement, so a sub-query reads `SELECT orders SELECT users`. Three things are ours: verbs are upper case (`select` and
`SELECT` are one span name), quotes around plain names are dropped, and names of common table expressions, which are no
tables, are left out.

This is a reader of words, not a parser: every string has a description, and it takes time linear in its length.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Final, TypeAlias

#: Characters of `db.query.summary`, as semconv bounds it.
SUMMARY_LENGTH: Final = 255
#: A longer statement is described from its first characters (`QueryTexts`).
STATEMENT_LENGTH: Final = 16 * 1024
#: The operation of a statement that starts with no known verb.
OTHER: Final = "_OTHER"


@dataclass(frozen=True, slots=True)
class QueryText:
    """What may be shown of one statement."""

    #: `db.query.text`: literals are `?`, value lists are one value, no comments; ends with `…` when it was cut
    text: str
    #: `db.query.summary`: verbs and targets; empty when the statement starts with no known verb
    summary: str
    #: `db.operation.name`: a verb of a fixed list, or `_OTHER`; after `BATCH ` for a batch
    operation: str
    #: `db.collection.name`: the table, when the statement has exactly one
    collection: str
    #: 16 hex digits; equal for statements that differ in literals, bind markers or the length of value lists
    fingerprint: str


def describe(statement: str, dialect: str = "", *, batch: bool = False, max_length: int = 4096) -> QueryText:
    r"""Describe `statement`, written for SQLAlchemy's dialect of that name. `batch` marks an `executemany`.

    An unknown dialect is read with doubt: where `\'` may or may not end a string, the rest of the text is one literal.
    Never raises, whatever the string.
    """
    tokens = _collapsed(_tokens(_encodable(statement), _grammar(_DIALECTS.get(dialect, _UNKNOWN))))
    outline = _outline(tokens)
    text = "".join([gap + shown for _, shown, gap in tokens]).lstrip()
    words = ["BATCH", *outline.words] if batch else outline.words
    return QueryText(
        text=text if len(text) <= max_length else text[: max_length - 1] + "…",
        summary=_joined(words, SUMMARY_LENGTH),
        operation=_batch_operation(outline.operation) if batch else outline.operation,
        collection=outline.collection,
        fingerprint=_fingerprint(tokens),
    )


class QueryTexts:
    """`describe` with a memory of the statements seen last. Safe to call from any thread.

    Bounded in entries and in the size of each, so in bytes: some 20 KiB an entry at the very most for ASCII text.
    A long statement is remembered by its first `STATEMENT_LENGTH` characters, since the multi-row inserts that
    SQLAlchemy makes are long and come again and again.
    """

    def __init__(self, max_length: int = 4096, capacity: int = 512) -> None:
        """Texts have at most `max_length` characters; `capacity` statements are remembered."""

        def miss(statement: str, dialect: str, batch: bool) -> QueryText:  # noqa: FBT001 - lru_cache keys are positional
            return describe(statement, dialect, batch=batch, max_length=max_length)

        self._remembered = lru_cache(capacity)(miss)

    def describe(self, statement: str, dialect: str = "", *, batch: bool = False) -> QueryText:
        """The description of `statement`. The same object for the same statement while it is remembered."""
        if len(statement) > STATEMENT_LENGTH:
            statement = statement[:STATEMENT_LENGTH]
        return self._remembered(statement, dialect, batch)


def _encodable(statement: str) -> str:
    """Lone surrogates cannot be exported as UTF-8."""
    return statement if statement.isascii() else statement.encode("utf-8", "replace").decode("utf-8")


def _joined(words: list[str], limit: int) -> str:
    """As many whole words as fit."""
    length = -1
    for count, word in enumerate(words):
        length += len(word) + 1
        if length > limit:
            return " ".join(words[:count])
    return " ".join(words)


def _batch_operation(operation: str) -> str:
    return "BATCH" if operation == OTHER else f"BATCH {operation}"


# --- tokens -----------------------------------------------------------------------------------------------------------

#: kind, text as shown, and the gap before it ("" or " "). Kinds: value, bind, name, cast, mark, operator.
_Token: TypeAlias = tuple[str, str, str]

# Every quantifier that could be tried twice is possessive, so no text makes the expressions backtrack. A literal that
# does not end takes the rest of the text.
_STANDARD: Final = r"'(?:[^']++|'')*+'?"
_ESCAPED: Final = r"'(?:[^'\\]++|''|\\.)*+\\?'?"
_DOUBTFUL: Final = r"'(?:[^'\\]++|''|\\(?:\\|(?!')))*+(?:'|.*)"
_ESCAPED_DOUBLE: Final = r'"(?:[^"\\]++|""|\\.)*+\\?"?'
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
    """How one dialect writes its tokens; all but `nested` are regular expressions."""

    #: a string in single quotes
    string: str = _STANDARD
    #: literals in other quotes
    strings: tuple[str, ...] = ()
    #: identifiers in quotes
    quotes: tuple[str, ...] = (_DOUBLE, _BACKTICK)
    #: a comment to the end of the line
    comment: str = r"--[^\n]*+"
    #: block comments may have block comments inside
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
_UNKNOWN: Final = _Rules(string=_DOUBTFUL, strings=(_DOLLAR,))
_DIALECTS: Final = {
    "postgresql": _POSTGRESQL,
    "cockroachdb": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": _Rules(quotes=(_DOUBLE, _BACKTICK, _BRACKET), numbered=r"\?\d++|:\d++"),
    # `$12` is money there, never a bind
    "mssql": _Rules(quotes=(_DOUBLE, _BRACKET), nested=True, numbered=r":\d++"),
    "oracle": _Rules(strings=(_ORACLE,), quotes=(_DOUBLE,), numbered=r":\d++"),
}


@cache
def _grammar(rules: _Rules) -> re.Pattern[str]:
    """The expression for any token, made when a dialect is first seen: compiling one takes some milliseconds."""
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


def _tokens(statement: str, grammar: re.Pattern[str]) -> list[_Token]:
    """The statement's tokens without comments; every literal is a `?`."""
    tokens: list[_Token] = []
    position: int | None = 0
    while position is not None:
        position = _read(statement, position, grammar, tokens)
    return tokens


def _read(statement: str, position: int, grammar: re.Pattern[str], tokens: list[_Token]) -> int | None:
    """Read up to the end (None) or past a comment that has comments inside (where to go on)."""
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


# --- value lists ------------------------------------------------------------------------------------------------------


def _collapsed(tokens: list[_Token]) -> list[_Token]:
    """`IN (?, ?, ?)` becomes `IN (?)`; of the rows of a `VALUES` list the first stays."""
    kept: list[_Token] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        kept.append(token)
        position += 1
        if token[0] == "name" and token[1].upper() in _LIST_WORDS and _shown(tokens, position) == "(":
            position = _collapse(tokens, position, kept, in_list=len(token[1]) == len("IN"))
    return kept


_LIST_WORDS: Final = frozenset({"IN", "VALUES"})


def _collapse(tokens: list[_Token], position: int, kept: list[_Token], *, in_list: bool) -> int:
    """Append the short form of the list at `position` to `kept`; where to go on."""
    if not in_list:
        end = _close(tokens, position)
        kept.extend(tokens[position:end])
        return _rows_end(tokens, end)
    end = _values_end(tokens, position)
    if end > position:
        kept.extend((tokens[position], ("value", "?", ""), ("mark", ")", "")))
    return end


def _shown(tokens: list[_Token], position: int) -> str:
    return tokens[position][1] if position < len(tokens) else ""


def _close(tokens: list[_Token], position: int) -> int:
    """The position behind the parenthesis that closes the one at `position`."""
    depth = 0
    for at in range(position, len(tokens)):
        depth += _DEPTH.get(tokens[at][1], 0)
        if not depth:
            return at + 1
    return len(tokens)


_DEPTH: Final = {"(": 1, ")": -1}


def _rows_end(tokens: list[_Token], position: int) -> int:
    """The position behind all further rows of a `VALUES` list."""
    while _shown(tokens, position) == "," and _shown(tokens, position + 1) == "(":
        position = _close(tokens, position + 1)
    return position


def _values_end(tokens: list[_Token], position: int) -> int:
    """The position behind a list of nothing but values, or `position` if it holds anything else.

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


def _fingerprint(tokens: list[_Token]) -> str:
    """Bind markers count as `?`: their numbers and names depend on the lists before them."""
    text = "".join([gap + ("?" if kind == "bind" else shown) for kind, shown, gap in tokens]).lstrip()
    return blake2b(text.encode("utf-8"), digest_size=8).hexdigest()


# --- verbs and targets ------------------------------------------------------------------------------------------------


class _Expects(Enum):
    """What the next name at a level is."""

    NOTHING = auto()
    #: a table, or a function when a parenthesis follows
    SOURCE = auto()
    TABLE = auto()
    #: an index, a procedure: a target, but no collection
    OBJECT = auto()
    #: `TABLE`, `INDEX`, … of a CREATE, ALTER or DROP
    KIND = auto()
    #: a common table expression
    CTE = auto()


class _State(Enum):
    """How far into its statement a level is."""

    #: before the first word of a statement: any verb may come
    STATEMENT = auto()
    #: before the first word in parentheses: a query may come, or anything else
    PARENTHESES = auto()
    #: after EXPLAIN or the like: a query will come
    PREFIXED = auto()
    #: in a WITH clause: common table expressions, then a query
    WITH = auto()
    INSIDE = auto()


@dataclass(slots=True)
class _Level:
    """One level of parentheses."""

    state: _State
    verb: str = ""
    expects: _Expects = _Expects.NOTHING
    #: what follows a comma at this level
    listed: _Expects = _Expects.NOTHING
    joined: bool = False
    recursive: bool = False
    last_word: str = ""
    targets: set[str] = field(default_factory=set)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: The verbs that have something to say after them, and what comes next.
_VERBS: Final = {
    **dict.fromkeys(_words("SELECT INSERT REPLACE VALUES EXPLAIN DECLARE PREPARE"), _Expects.NOTHING),
    **dict.fromkeys(_words("UPDATE DELETE MERGE TRUNCATE LOCK TABLE COPY"), _Expects.TABLE),
    **dict.fromkeys(_words("CALL EXEC EXECUTE"), _Expects.OBJECT),
    **dict.fromkeys(_words("CREATE ALTER DROP REFRESH"), _Expects.KIND),
}
#: The verbs that are the whole summary of their statement.
_ALONE: Final = _words(
    "ABORT ANALYZE ATTACH BEGIN CHECKPOINT CLOSE CLUSTER COMMENT COMMIT DEALLOCATE DESC DESCRIBE DETACH DISCARD DO END"
    " FETCH FLUSH GRANT KILL LISTEN LOAD MOVE NOTIFY OPTIMIZE PRAGMA REINDEX RELEASE RESET REVOKE ROLLBACK SAVEPOINT"
    " SET SHOW START UNLISTEN USE VACUUM XA"
)
#: Every value that `QueryText.operation` takes, but for `BATCH` in front.
OPERATIONS: Final = frozenset(_VERBS) | _ALONE | {OTHER}

#: The verbs that may follow a WITH clause, an EXPLAIN, or a parenthesis.
_QUERIES: Final = _words("SELECT INSERT UPDATE DELETE MERGE REPLACE")
_PREFIXES: Final = _words("EXPLAIN DECLARE PREPARE")
#: The verbs that take several targets.
_LISTING: Final = _words("UPDATE DELETE TRUNCATE LOCK DROP")
#: The words after CREATE, ALTER and DROP that say of what; None: its name is not shown.
_KINDS: Final[dict[str, _Expects | None]] = {
    **dict.fromkeys(_words("TABLE VIEW"), _Expects.TABLE),
    **dict.fromkeys(
        _words("DATABASE DOMAIN EXTENSION FUNCTION INDEX PROCEDURE SCHEMA SEQUENCE TRIGGER TYPE"), _Expects.OBJECT
    ),
    **dict.fromkeys(_words("DEFAULT EVENT LOGIN POLICY PUBLICATION ROLE RULE SERVER SUBSCRIPTION SYSTEM USER")),
}
#: The words that may stand between a verb and its target.
_FILLERS: Final = _words(
    "ABORT CONCURRENTLY DELAYED EXISTS FAIL HIGH_PRIORITY IF IGNORE LATERAL LOW_PRIORITY NOT ONLY OR OVERWRITE QUICK"
    " REPLACE ROLLBACK TABLE TOP"
)
#: The words that end a list of tables.
_ENDS: Final = _words(
    "EXCEPT FETCH FOR GROUP HAVING INTERSECT LIMIT MINUS OFFSET ORDER OUTPUT QUALIFY RETURNING SET UNION VALUES WHEN"
    " WHERE WINDOW"
)
_JOINS: Final = _words("JOIN STRAIGHT_JOIN APPLY")
_CLAUSES: Final = _ENDS | _JOINS | _words("SELECT WITH FROM INTO USING ON")


class _Outline:
    """Reads a statement word by word and notes verbs and targets."""

    __slots__ = ("_alone", "_ctes", "_first", "_levels", "_main", "_pending", "_tables", "words")

    def __init__(self) -> None:
        self._main = self._first = ""
        self.words: list[str] = []
        self._tables: set[str] = set()
        self._levels = [_Level(_State.STATEMENT)]
        #: True from a verb of `_ALONE`, or an unknown one, to the end of its statement
        self._alone = False
        self._ctes: set[str] = set()
        #: the table expression that is being defined: it hides a table of its name only after its own end
        self._pending = ""

    @property
    def operation(self) -> str:
        """The first verb outside of parentheses, if there is one at all."""
        return self._main or self._first or OTHER

    @property
    def collection(self) -> str:
        """The only table, or the empty string."""
        return next(iter(self._tables)) if len(self._tables) == 1 else ""

    def mark(self, mark: str) -> None:
        """Take note of a punctuation mark."""
        level = self._levels[-1]
        if mark == ",":
            level.expects = _Expects.CTE if level.state is _State.WITH else level.listed
        elif mark == "(":
            self._open(level)
        elif mark == ")" and len(self._levels) > 1:
            self._levels.pop()
        elif mark == ";":
            self._levels, self._alone = [_Level(_State.STATEMENT)], False

    def _open(self, level: _Level) -> None:
        inner = _Level(_State.PARENTHESES)
        if level.expects in {_Expects.SOURCE, _Expects.TABLE}:
            inner.verb, inner.expects, inner.listed = level.verb, level.expects, level.expects
            level.expects = _Expects.NOTHING
        if level.state is _State.STATEMENT:
            level.state = _State.INSIDE
        self._levels.append(inner)

    def name(self, name: str, following: str) -> None:
        """Take note of a word or a name, and of the token that follows it."""
        if self._alone:
            return
        level = self._levels[-1]
        word = name.upper()
        if level.state is _State.INSIDE or not self._begins(level, word, following):
            self._goes_on(level, word, name, following)
        level.last_word = word

    def _begins(self, level: _Level, word: str, following: str) -> bool:
        """True when the word belongs to the beginning of its statement."""
        if level.state is _State.WITH:
            self._read_with(level, word, following)
        elif word == "WITH":
            level.state, level.expects = _State.WITH, _Expects.CTE
        elif level.state is _State.STATEMENT:
            self._read_first(level, word)
        elif word in _QUERIES and (following != "(" or word not in {"INSERT", "REPLACE"}):
            self._verb(level, word)
        elif level.state is _State.PARENTHESES:
            level.state = _State.INSIDE
            return False
        return True

    def _read_first(self, level: _Level, word: str) -> None:
        if word in OPERATIONS:
            self._verb(level, word)
        else:
            self._main = self._main or OTHER
            self._alone = True

    def _read_with(self, level: _Level, word: str, following: str) -> None:
        if word in _QUERIES:
            self._ctes.add(self._pending)
            self._verb(level, word)
        elif word == "RECURSIVE" and following not in {"(", "AS"}:
            level.recursive = True
        elif level.expects is _Expects.CTE:
            self._ctes.add(self._pending)
            self._pending, level.expects = _shown_name(word), _Expects.NOTHING
            if level.recursive:
                self._ctes.add(self._pending)

    def _verb(self, level: _Level, word: str) -> None:
        if len(self._levels) == 1:
            self._main = self._main or word
        self._first = self._first or word
        self.words.append(word)
        level.state = _State.PREFIXED if word in _PREFIXES else _State.INSIDE
        level.verb, level.targets, level.joined = word, set(), False
        level.expects = _VERBS.get(word, _Expects.NOTHING)
        level.listed = level.expects if word in _LISTING else _Expects.NOTHING
        self._alone = word in _ALONE

    def _goes_on(self, level: _Level, word: str, name: str, following: str) -> None:
        if word in _CLAUSES:
            self._clause(level, word, following)
        elif level.expects is _Expects.KIND:
            self._kind(level, word)
        elif level.expects is not _Expects.NOTHING and word not in _FILLERS:
            self._target(level, name, following)

    def _clause(self, level: _Level, word: str, following: str) -> None:
        if word == "SELECT":
            self._verb(level, word)
        elif word == "WITH":
            # not WITH (hint), TIMESTAMP WITH TIME ZONE, WITH ORDINALITY, …
            if following != "(" and (level.verb in {"INSERT", "REPLACE"} or level.last_word == "AS"):
                level.state, level.expects, level.recursive = _State.WITH, _Expects.CTE, False
        elif word in _ENDS:
            level.expects = level.listed = _Expects.NOTHING
        elif word == "ON":
            level.expects = _Expects.NOTHING
        elif level.verb:
            self._tables_follow(level, word)

    def _tables_follow(self, level: _Level, word: str) -> None:
        if word in _JOINS:
            level.expects, level.joined = _Expects.SOURCE, True
        elif word == "INTO":
            level.expects, level.listed = _Expects.TABLE, _Expects.NOTHING
        elif word == "USING":
            # not the USING (column) of a join
            if level.verb in {"DELETE", "MERGE"} and not level.joined:
                level.expects = level.listed = _Expects.SOURCE
        # not EXTRACT(YEAR FROM x), whose level has no verb, nor IS DISTINCT FROM
        elif level.verb in {"SELECT", "DELETE", "UPDATE"} and level.last_word != "DISTINCT":
            level.expects = level.listed = _Expects.SOURCE

    def _kind(self, level: _Level, word: str) -> None:
        if word in _KINDS:
            self.words.append(word)
            expects = _KINDS[word]
            self._alone = expects is None
            level.expects = expects or _Expects.NOTHING
            level.listed = level.expects if level.verb in _LISTING else _Expects.NOTHING

    def _target(self, level: _Level, name: str, following: str) -> None:
        kind, level.expects = level.expects, _Expects.NOTHING
        target = _shown_name(name)
        is_function = kind is _Expects.SOURCE and following == "("
        if is_function or target.upper() in self._ctes or target in level.targets:
            return
        level.targets.add(target)
        self.words.append(target)
        if kind is not _Expects.OBJECT:
            self._tables.add(target)


def _outline(tokens: list[_Token]) -> _Outline:
    outline = _Outline()
    for (kind, shown, _), (_, following, _) in pairwise([*tokens, ("mark", "", "")]):
        if kind == "name":
            outline.name(shown, following)
        elif shown in _PUNCTUATION:
            outline.mark(shown)
    return outline


_PUNCTUATION: Final = frozenset("(),;")
_PLAIN_QUOTED: Final = re.compile(r"""["`\[]([\w$-]+)["`\]]""")


def _shown_name(name: str) -> str:
    """`"Order"` as `Order`, but `"song list"` and `"a.b"` as they are."""
    return " ".join(_PLAIN_QUOTED.sub(r"\1", name).split())


# --- columns ----------------------------------------------------------------------------------------------------------

_PART: Final = r'(?:[^\W\d][\w$]*+|"[^"]++"|`[^`]++`|\[[^\[\]]++\])'
_COMPARISON: Final = re.compile(
    rf"(?<![\w$.])(?P<left>(?:{_PART}\.)*+{_PART})"
    r"\s*+(?:[=<>]=?|<>|!=|(?:NOT\s++)?(?:I?LIKE|IN|BETWEEN)\b)\s*+"
    rf"(?P<right>(?:{_PART}\.)++{_PART}(?!\s*+\())?",
    re.IGNORECASE,
)
_CONDITIONS: Final = re.compile(r"\b(?:WHERE|ON|HAVING)\b", re.IGNORECASE)


def compared_columns(text: str) -> list[str]:
    """The columns that the conditions of a statement compare, as they are written there, each once.

    `text` is one of `QueryText.text`. What is compared by its result only, as in `lower(name) = ?`, is none.
    """
    conditions = _CONDITIONS.search(text)
    if conditions is None:
        return []
    found = (name for match in _COMPARISON.finditer(text, conditions.end()) for name in match.group("left", "right"))
    return list(dict.fromkeys(_shown_name(name) for name in found if name and name.upper() not in _NO_COLUMNS))


_NO_COLUMNS: Final = _CLAUSES | _words("AND OR NOT BY AS CASE WHEN THEN ELSE END NULL IN LIKE")
