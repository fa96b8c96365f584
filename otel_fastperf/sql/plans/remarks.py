"""What is wrong in a plan, in one sentence: the one thing that most rows go through. "" for a plan that is in order.

A plan of few rows is in order whatever it does, and so is one whose figures are not known. Estimates are the
database's, from its statistics.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.sql.plans.node import Node, TableFacts, Work, walk
from otel_fastperf.sql.plans.statement import Statement

#: rows from which on reading a table from end to end, sorting or grouping is worth a word: below, some milliseconds
MANY_ROWS: Final = 10_000
#: rows, all loops together, from which on reading a table again and again is
MANY_LOOPED_ROWS: Final = 100_000
#: a table this small may be read as often as one likes
FEW_ROWS: Final = 100
#: an index pays when it leads to no more than this part of a table
SELECTIVE: Final = 0.1
#: bytes that a row takes in a sort, besides its columns
_ROW_OVERHEAD: Final = 24
_MEBIBYTE: Final = 1024 * 1024

#: how well it can be cured: by an index to look rows up, by one that orders them, or by asking for less
_LOOKED_UP: Final = 3
_ORDERED: Final = 2
_WHOLE: Final = 1


@dataclass(frozen=True, slots=True)
class _Problem:
    rows: float
    #: of two with as many rows the one that can be cured best, which is the highest
    rank: int
    sentence: str


def remark_on(root: Node, facts: TableFacts, statement: Statement) -> str:
    """The remark on a plan to which the facts have been applied."""
    problems = [problem for node, above in walk(root) for problem in _problems(node, above, facts, statement)]
    worst = max(problems, key=lambda problem: (problem.rows, problem.rank), default=None)
    return "" if worst is None else worst.sentence


def _problems(node: Node, above: tuple[Node, ...], facts: TableFacts, statement: Statement) -> Iterator[_Problem]:
    if node.work is Work.SCAN:
        if node.loops >= 2:  # noqa: PLR2004 - once is no loop
            yield from _looped(node)
        elif (node.read or 0) >= MANY_ROWS:
            yield from _scan(node, above, statement)
    elif node.work is Work.SORT and _volume(node) >= MANY_ROWS:
        yield from _sort(node, above, facts, statement)
    elif node.work is Work.GROUP and _volume(node) >= MANY_ROWS:
        yield from _group(node)


# --- reading whole tables ---------------------------------------------------------------------------------------------


def _looped(node: Node) -> Iterator[_Problem]:
    """A whole table for each row of something else: nested loops, correlated subqueries."""
    read = node.read or 0
    if read >= FEW_ROWS and read * node.loops >= MANY_LOOPED_ROWS:
        sentence = (
            f"`{node.table}` (about {read:,.0f} rows) is read from end to end for each of about {node.loops:,.0f} rows;"
            f" {_advice(node)}."
        )
        yield _Problem(read * node.loops, _LOOKED_UP, sentence)


def _scan(node: Node, above: tuple[Node, ...], statement: Statement) -> Iterator[_Problem]:
    """A whole table for some of its rows, or for no reason that is seen."""
    read = node.read or 0
    whole = f"All of about {read:,.0f} rows of `{node.table}` are read"
    join = next((parent for parent in above if parent.work is Work.JOIN), None)
    filtered = any(detail.startswith("Filter") for detail in node.details)
    # a statement that compares with no value may be a join of all with all: no index spares a row of its first table
    if node.keys and (filtered or (join is None and statement.chooses)):
        if node.rows is None or node.rows <= SELECTIVE * read:
            found = "" if node.rows is None else f" to find about {max(node.rows, 1):,.0f}"
            yield _Problem(read, _LOOKED_UP, f"{whole}{found}; {_advice(node)}.")
    elif join is None and _has_siblings(above):
        # the lines of a join, in plans that have no node for it
        return
    elif join is not None:
        # where there is an index already, the planner has found joining otherwise cheaper
        if node.keys and not node.indexed and join.rows is not None and join.rows <= SELECTIVE * read:
            kept = f"for a join that keeps about {max(join.rows, 1):,.0f}"
            yield _Problem(read, _LOOKED_UP, f"{whole} {kept}; {_advice(node)}.")
    elif not (filtered or statement.limited):
        spared = "a WHERE, a LIMIT, or a result that is kept would spare them"
        yield _Problem(read, _WHOLE, f"{whole}, with no condition that chooses any; {spared}.")


def _has_siblings(above: tuple[Node, ...]) -> bool:
    return bool(above) and sum(bool(child.table) for child in above[0].children) > 1


# --- sorts and groups -------------------------------------------------------------------------------------------------


def _sort(node: Node, above: tuple[Node, ...], facts: TableFacts, statement: Statement) -> Iterator[_Problem]:
    rows = _volume(node)
    size = rows * (node.width + _ROW_OVERHEAD) if node.width else 0
    tables = {child.table for child, _ in walk(node) if child.table}
    rank, remedy = _WHOLE, "a condition, or a LIMIT on the order of an index, would leave fewer"
    grouped = any(child.work is Work.GROUP for child, _ in walk(node))
    if node.keys and len(tables) == 1 and not grouped:
        rank, remedy = _ORDERED, f"try {_create_index(tables.pop(), node.keys)}"
    about = f"About {rows:,.0f} rows"
    if statement.limited and all(parent.work is not Work.GROUP for parent in above):
        yield _Problem(rows, rank, f"{about} are sorted to return the first few; {remedy}.")
    elif size > facts.work_memory > 0:
        memory = f"work_mem ({facts.work_memory / _MEBIBYTE:,.0f} MiB)"
        sentence = f"{about} ({size / _MEBIBYTE:,.0f} MiB) are sorted on disk, being more than {memory}"
        yield _Problem(rows, rank, f"{sentence}; {remedy}, or raise work_mem.")
    elif not size:
        yield _Problem(rows, rank, f"{about} are sorted apart, by no index; {remedy}.")


def _group(node: Node) -> Iterator[_Problem]:
    about = f"About {_volume(node):,.0f} rows"
    if node.spills:
        sentence = f"{about} are grouped in files on disk, having no room in work_mem; raise work_mem."
        yield _Problem(_volume(node), _ORDERED, sentence)
    elif not node.width:
        # a plan without sizes of rows is not PostgreSQL's, whose hash tables are in memory
        cure = "an index on the columns that are grouped by would give them in order"
        yield _Problem(_volume(node), _ORDERED, f"{about} go through a temporary table; {cure}.")


def _volume(node: Node) -> float:
    """Rows that come into a node."""
    known = node.rows if node.taken is None else node.taken
    if known is not None:
        return known
    below = ((child.rows or child.read or 0) * child.loops for child, _ in walk(node) if child is not node)
    return max(below, default=0.0)


# --- remedies ---------------------------------------------------------------------------------------------------------


def _advice(node: Node) -> str:
    if not node.keys:
        return "an index on the columns by which it is chosen would lead to them"
    columns = (" or " if node.either else ", ").join(f"`{key}`" for key in node.keys)
    if node.pattern:
        return f"{columns} is matched by a pattern that starts with a wildcard: only a trigram or full-text index helps"
    if node.indexed:
        doubt = "the planner did not expect it to help: ANALYZE the table, and see that types agree"
        return f"there is an index on {columns}, and {doubt}"
    if node.either and len(node.keys) > 1:
        return f"{columns} need an index each: try {_create_index(node.table, node.keys[:1])} and so on"
    return f"no index serves {columns}: try {_create_index(node.table, node.keys)}"


def _create_index(table: str, keys: tuple[str, ...]) -> str:
    """The name is as SQLAlchemy names indexes."""
    words = "_".join((table.rpartition(".")[2], *keys))
    name = re.sub(r"_*\W+_*", "_", words).strip("_")
    return f"CREATE INDEX ix_{name} ON {table} ({', '.join(keys)})"
