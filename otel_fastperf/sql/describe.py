"""What telemetry may show of a SQL statement: text without values, summary, operation, table, fingerprint.

The text keeps bind markers and identifiers and loses literals and comments. The summary follows OpenTelemetry's
"Generating a summary of the query" (semconv, docs/db/database-spans.md): verbs and their tables in the order of the
statement, so a sub-query reads `SELECT orders SELECT users`. We differ in three points: verbs are upper case, so that
`select` and `SELECT` share one span name; quotes around plain names are dropped; names of common table expressions are
left out, because they are not tables.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from otel_fastperf.internals.text_safety import encodable
from otel_fastperf.sql.outline import OTHER, outline_of
from otel_fastperf.sql.tokens import Token, tokens_of

#: Maximum length of `db.query.summary` in characters, as semconv limits it.
SUMMARY_LENGTH: Final = 255
#: `QueryTexts` describes a longer statement from this many of its first characters.
STATEMENT_LENGTH: Final = 16 * 1024


class ExecutionCounts:
    """How often a statement has run, and how often it was slow. Threads may lose a few counts to each other."""

    __slots__ = ("all", "slow")

    def __init__(self) -> None:
        self.all: int = 0
        self.slow: int = 0


@dataclass(frozen=True, slots=True)
class QueryText:
    """The presentable description of a statement.

    Attributes:
        text: `db.query.text`: literals are `?`, lists of values have one value, no comments; ends with `…` if it was
            cut.
        summary: `db.query.summary`: verbs and targets; empty if the statement starts with an unknown verb.
        operation: `db.operation.name`: a verb of a fixed list, or `_OTHER`; with the prefix `BATCH ` for a batch.
        collection: `db.collection.name`: the table, if the statement has exactly one.
        fingerprint: 16 hex digits; equal for statements that differ only in literals, bind markers or the length of
            lists of values.
        counts: Of executions in requests.
    """

    text: str
    summary: str
    operation: str
    collection: str
    fingerprint: str
    counts: ExecutionCounts = field(default_factory=ExecutionCounts, compare=False, repr=False)


def describe(statement: str, dialect: str = "", *, batch: bool = False, max_length: int = 4096) -> QueryText:
    r"""Describe a statement in SQLAlchemy's dialect of that name; `batch` marks an `executemany`. Never raises.

    An unknown dialect is read with caution: where `\'` may or may not end a string, the rest of the text counts as one
    literal.
    """
    tokens = tokens_of(encodable(statement), dialect)
    outline = outline_of(tokens)
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
    """`describe` with a cache of recent statements. Safe to call from any thread.

    The cache is bounded in entries and in the size of each, so in bytes: 20 KiB per entry at most for ASCII text. A
    long statement is cached by its first `STATEMENT_LENGTH` characters, because SQLAlchemy's multi-row inserts are long
    and recur.
    """

    def __init__(self, max_length: int = 4096, capacity: int = 512) -> None:
        """Texts have at most `max_length` characters; the cache has at most `capacity` statements."""

        def miss(statement: str, dialect: str, batch: bool) -> QueryText:  # noqa: FBT001 - lru_cache keys are positional
            return describe(statement, dialect, batch=batch, max_length=max_length)

        self._cached = lru_cache(capacity)(miss)

    def describe(self, statement: str, dialect: str = "", *, batch: bool = False) -> QueryText:
        """Describe the statement. Returns the same object for the same statement while it is cached."""
        if len(statement) > STATEMENT_LENGTH:
            statement = statement[:STATEMENT_LENGTH]
        return self._cached(statement, dialect, batch)


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


def _fingerprint(tokens: list[Token]) -> str:
    """Hash of the text with bind markers as `?`: their numbers and names depend on the lists before them."""
    text = "".join([gap + ("?" if kind == "bind" else shown) for kind, shown, gap in tokens]).lstrip()
    return blake2b(text.encode("utf-8"), digest_size=8).hexdigest()
