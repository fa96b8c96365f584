"""The outline of a SQL statement: its verbs and the tables they work on, in the order of the statement.

This reads words, it does not parse: every statement has an outline, in time linear in its length.
"""

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise
from typing import Final

from otel_fastperf.sql.keywords import keywords
from otel_fastperf.sql.tokens import Token

#: The operation of a statement that starts with an unknown verb.
OTHER: Final = "_OTHER"


class _Expects(Enum):
    """What the next name at a nesting level stands for."""

    NOTHING = auto()
    #: a table; a function if a parenthesis follows
    SOURCE = auto()
    TABLE = auto()
    #: an index or a procedure: a target, but not a collection
    OBJECT = auto()
    #: `TABLE`, `INDEX`, … after CREATE, ALTER or DROP
    KIND = auto()
    #: a common table expression
    CTE = auto()


class _State(Enum):
    """Position of a nesting level within its statement."""

    #: before the first word of a statement: any verb may follow
    STATEMENT = auto()
    #: before the first word in parentheses: a query or anything else may follow
    PARENTHESES = auto()
    #: after EXPLAIN or the like: a query follows
    PREFIXED = auto()
    #: in a WITH clause: common table expressions, then a query
    WITH = auto()
    INSIDE = auto()


@dataclass(slots=True)
class _NestingLevel:
    """One level of parentheses; level 0 is the statement itself."""

    state: _State
    verb: str = ""
    expects: _Expects = _Expects.NOTHING
    #: what a name after a comma at this level stands for
    listed: _Expects = _Expects.NOTHING
    joined: bool = False
    recursive: bool = False
    last_word: str = ""
    targets: set[str] = field(default_factory=set)


#: Verbs that are followed by something of interest, and what the next name stands for.
_VERBS: Final = {
    **dict.fromkeys(keywords("SELECT INSERT REPLACE VALUES EXPLAIN DECLARE PREPARE"), _Expects.NOTHING),
    **dict.fromkeys(keywords("UPDATE DELETE MERGE TRUNCATE LOCK TABLE COPY"), _Expects.TABLE),
    **dict.fromkeys(keywords("CALL EXEC EXECUTE"), _Expects.OBJECT),
    **dict.fromkeys(keywords("CREATE ALTER DROP REFRESH"), _Expects.KIND),
}
#: Verbs that make up the whole summary of their statement.
_ALONE: Final = keywords(
    "ABORT ANALYZE ATTACH BEGIN CHECKPOINT CLOSE CLUSTER COMMENT COMMIT DEALLOCATE DESC DESCRIBE DETACH DISCARD DO END"
    " FETCH FLUSH GRANT KILL LISTEN LOAD MOVE NOTIFY OPTIMIZE PRAGMA REINDEX RELEASE RESET REVOKE ROLLBACK SAVEPOINT"
    " SET SHOW START UNLISTEN USE VACUUM XA"
)
#: All values of `QueryText.operation`, without the prefix `BATCH `.
OPERATIONS: Final = frozenset(_VERBS) | _ALONE | {OTHER}

#: Verbs that may follow a WITH clause, an EXPLAIN, or an opening parenthesis.
_QUERIES: Final = keywords("SELECT INSERT UPDATE DELETE MERGE REPLACE")
_PREFIXES: Final = keywords("EXPLAIN DECLARE PREPARE")
#: Verbs that take several targets.
_LISTING: Final = keywords("UPDATE DELETE TRUNCATE LOCK DROP")
#: Words after CREATE, ALTER and DROP that name the kind of object; None: the object's name is not shown.
_KINDS: Final[dict[str, _Expects | None]] = {
    **dict.fromkeys(keywords("TABLE VIEW"), _Expects.TABLE),
    **dict.fromkeys(
        keywords("DATABASE DOMAIN EXTENSION FUNCTION INDEX PROCEDURE SCHEMA SEQUENCE TRIGGER TYPE"), _Expects.OBJECT
    ),
    **dict.fromkeys(keywords("DEFAULT EVENT LOGIN POLICY PUBLICATION ROLE RULE SERVER SUBSCRIPTION SYSTEM USER")),
}
#: Words that may come between a verb and its target.
_FILLERS: Final = keywords(
    "ABORT CONCURRENTLY DELAYED EXISTS FAIL HIGH_PRIORITY IF IGNORE LATERAL LOW_PRIORITY NOT ONLY OR OVERWRITE QUICK"
    " REPLACE ROLLBACK TABLE TOP"
)
#: Words that end a list of tables.
_ENDS: Final = keywords(
    "EXCEPT FETCH FOR GROUP HAVING INTERSECT LIMIT MINUS OFFSET ORDER OUTPUT QUALIFY RETURNING SET UNION VALUES WHEN"
    " WHERE WINDOW"
)
_JOINS: Final = keywords("JOIN STRAIGHT_JOIN APPLY")
CLAUSES: Final = _ENDS | _JOINS | keywords("SELECT WITH FROM INTO USING ON")


class Outline:
    """Reads a statement word by word and collects its verbs and targets in `words`."""

    __slots__ = ("_alone", "_ctes", "_first", "_levels", "_main", "_pending", "_tables", "words")

    def __init__(self) -> None:
        self._main = self._first = ""
        self.words: list[str] = []
        self._tables: set[str] = set()
        self._levels = [_NestingLevel(_State.STATEMENT)]
        #: True after a verb of `_ALONE`, or an unknown one, until its statement ends
        self._alone = False
        self._ctes: set[str] = set()
        #: the table expression that is being defined; it hides a table of the same name only after its definition
        self._pending = ""

    @property
    def operation(self) -> str:
        """The first verb outside of parentheses, else the first verb, else `_OTHER`."""
        return self._main or self._first or OTHER

    @property
    def collection(self) -> str:
        """The table, if there is exactly one, else the empty string."""
        return next(iter(self._tables)) if len(self._tables) == 1 else ""

    def mark(self, mark: str) -> None:
        """Read a punctuation mark."""
        level = self._levels[-1]
        if mark == ",":
            level.expects = _Expects.CTE if level.state is _State.WITH else level.listed
        elif mark == "(":
            self._open(level)
        elif mark == ")" and len(self._levels) > 1:
            self._levels.pop()
        elif mark == ";":
            self._levels, self._alone = [_NestingLevel(_State.STATEMENT)], False

    def _open(self, level: _NestingLevel) -> None:
        inner = _NestingLevel(_State.PARENTHESES)
        if level.expects in {_Expects.SOURCE, _Expects.TABLE}:
            inner.verb, inner.expects, inner.listed = level.verb, level.expects, level.expects
            level.expects = _Expects.NOTHING
        if level.state is _State.STATEMENT:
            level.state = _State.INSIDE
        self._levels.append(inner)

    def name(self, name: str, following: str) -> None:
        """Read a word or a name; `following` is the token after it."""
        if self._alone:
            return
        level = self._levels[-1]
        word = name.upper()
        if level.state is _State.INSIDE or not self._begins(level, word, following):
            self._continue(level, word, name, following)
        level.last_word = word

    def _begins(self, level: _NestingLevel, word: str, following: str) -> bool:
        """Read a word at the beginning of a statement; False if it does not belong there."""
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

    def _read_first(self, level: _NestingLevel, word: str) -> None:
        if word in OPERATIONS:
            self._verb(level, word)
        else:
            self._main = self._main or OTHER
            self._alone = True

    def _read_with(self, level: _NestingLevel, word: str, following: str) -> None:
        if word in _QUERIES:
            self._ctes.add(self._pending)
            self._verb(level, word)
        elif word == "RECURSIVE" and following not in {"(", "AS"}:
            level.recursive = True
        elif level.expects is _Expects.CTE:
            self._ctes.add(self._pending)
            self._pending, level.expects = shown_name(word), _Expects.NOTHING
            if level.recursive:
                self._ctes.add(self._pending)

    def _verb(self, level: _NestingLevel, word: str) -> None:
        if len(self._levels) == 1:
            self._main = self._main or word
        self._first = self._first or word
        self.words.append(word)
        level.state = _State.PREFIXED if word in _PREFIXES else _State.INSIDE
        level.verb, level.targets, level.joined = word, set(), False
        level.expects = _VERBS.get(word, _Expects.NOTHING)
        level.listed = level.expects if word in _LISTING else _Expects.NOTHING
        self._alone = word in _ALONE

    def _continue(self, level: _NestingLevel, word: str, name: str, following: str) -> None:
        if word in CLAUSES:
            self._clause(level, word, following)
        elif level.expects is _Expects.KIND:
            self._kind(level, word)
        elif level.expects is not _Expects.NOTHING and word not in _FILLERS:
            self._target(level, name, following)

    def _clause(self, level: _NestingLevel, word: str, following: str) -> None:
        if word == "SELECT":
            self._verb(level, word)
        elif word == "WITH":
            # excludes WITH (hint), TIMESTAMP WITH TIME ZONE, WITH ORDINALITY, …
            if following != "(" and (level.verb in {"INSERT", "REPLACE"} or level.last_word == "AS"):
                level.state, level.expects, level.recursive = _State.WITH, _Expects.CTE, False
        elif word in _ENDS:
            level.expects = level.listed = _Expects.NOTHING
        elif word == "ON":
            level.expects = _Expects.NOTHING
        elif level.verb:
            self._tables_follow(level, word)

    def _tables_follow(self, level: _NestingLevel, word: str) -> None:
        if word in _JOINS:
            level.expects, level.joined = _Expects.SOURCE, True
        elif word == "INTO":
            level.expects, level.listed = _Expects.TABLE, _Expects.NOTHING
        elif word == "USING":
            # excludes the USING (column) of a join
            if level.verb in {"DELETE", "MERGE"} and not level.joined:
                level.expects = level.listed = _Expects.SOURCE
        # excludes EXTRACT(YEAR FROM x), whose level has no verb, and IS DISTINCT FROM
        elif level.verb in {"SELECT", "DELETE", "UPDATE"} and level.last_word != "DISTINCT":
            level.expects = level.listed = _Expects.SOURCE

    def _kind(self, level: _NestingLevel, word: str) -> None:
        if word in _KINDS:
            self.words.append(word)
            expects = _KINDS[word]
            self._alone = expects is None
            level.expects = expects or _Expects.NOTHING
            level.listed = level.expects if level.verb in _LISTING else _Expects.NOTHING

    def _target(self, level: _NestingLevel, name: str, following: str) -> None:
        kind, level.expects = level.expects, _Expects.NOTHING
        target = shown_name(name)
        is_function = kind is _Expects.SOURCE and following == "("
        if is_function or target.upper() in self._ctes or target in level.targets:
            return
        level.targets.add(target)
        self.words.append(target)
        if kind is not _Expects.OBJECT:
            self._tables.add(target)


def outline_of(tokens: list[Token]) -> Outline:
    """Read the outline of a statement."""
    outline = Outline()
    for (kind, shown, _), (_, following, _) in pairwise([*tokens, ("mark", "", "")]):
        if kind == "name":
            outline.name(shown, following)
        elif shown in _PUNCTUATION:
            outline.mark(shown)
    return outline


_PUNCTUATION: Final = frozenset("(),;")
_PLAIN_QUOTED: Final = re.compile(r"""["`\[]([\w$-]+)["`\]]""")


def shown_name(name: str) -> str:
    """The name without unnecessary quotes: `"Order"` as `Order`, but `"song list"` and `"a.b"` unchanged."""
    return " ".join(_PLAIN_QUOTED.sub(r"\1", name).split())
