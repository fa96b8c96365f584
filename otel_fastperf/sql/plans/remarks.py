"""The remark on a plan: one sentence about its worst problem, which most rows pass through.

The remark is empty for a plan without problems. A plan of few rows has none, whatever it does, and neither has one
without figures. The figures are the database's estimates, from its statistics.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.sql.plans.node import Node, TableFacts, Work, walk
from otel_fastperf.sql.plans.statement import PlannedStatement

#: minimum rows for a remark on a full scan, a sort or a grouping; fewer take some milliseconds
MANY_ROWS: Final = 10_000
#: minimum rows of all loops together for a remark on a repeated full scan
MANY_LOOPED_ROWS: Final = 100_000
#: minimum rows of a table for a remark on its repeated full scan
FEW_ROWS: Final = 100
#: largest share of a table for which an index is worth its cost
SELECTIVE: Final = 0.1
#: bytes of a row in a sort, in addition to its columns
_ROW_OVERHEAD: Final = 24
_MEBIBYTE: Final = 1024 * 1024

#: effect of the remedy: an index that finds the rows, an index that orders them, or a query for fewer rows
_LOOKED_UP: Final = 3
_ORDERED: Final = 2
_WHOLE: Final = 1


@dataclass(frozen=True, slots=True)
class _Problem:
    rows: float
    #: of two problems with as many rows, the one with the higher rank is reported
    rank: int
    sentence: str


def remark_on(root: Node, facts: TableFacts, statement: PlannedStatement) -> str:
    """The remark on a plan whose figures have been completed by the facts."""
    problems = [problem for node, above in walk(root) for problem in _problems(node, above, facts, statement)]
    worst = max(problems, key=lambda problem: (problem.rows, problem.rank), default=None)
    return "" if worst is None else worst.sentence


def _problems(
    node: Node, above: tuple[Node, ...], facts: TableFacts, statement: PlannedStatement
) -> Iterator[_Problem]:
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
    """A full scan for each row of another step: nested loops, correlated subqueries."""
    read = node.read or 0
    if read >= FEW_ROWS and read * node.loops >= MANY_LOOPED_ROWS:
        sentence = (
            f"`{node.table}` (about {read:,.0f} rows) is scanned completely for each of about {node.loops:,.0f} rows;"
            f" {_advice(node)}."
        )
        yield _Problem(read * node.loops, _LOOKED_UP, sentence)


def _scan(node: Node, above: tuple[Node, ...], statement: PlannedStatement) -> Iterator[_Problem]:
    """A full scan that returns few rows, or that no condition restricts."""
    read = node.read or 0
    whole = f"All rows of `{node.table}` (about {read:,.0f}) are read"
    join = next((parent for parent in above if parent.work is Work.JOIN), None)
    filtered = any(detail.startswith("Filter") for detail in node.details)
    # a statement without a value to compare may join everything: no index avoids the scan of its first table
    if node.keys and (filtered or (join is None and statement.chooses)):
        if node.rows is None or node.rows <= SELECTIVE * read:
            found = "" if node.rows is None else f" to find about {max(node.rows, 1):,.0f}"
            yield _Problem(read, _LOOKED_UP, f"{whole}{found}; {_advice(node)}.")
    elif join is None and _has_siblings(above):
        # the steps of a join, in plans that have no node for it
        return
    elif join is not None:
        # if there is an index, the planner has found another way to join cheaper
        if node.keys and not node.indexed and join.rows is not None and join.rows <= SELECTIVE * read:
            kept = f"for a join that keeps about {max(join.rows, 1):,.0f}"
            yield _Problem(read, _LOOKED_UP, f"{whole} {kept}; {_advice(node)}.")
    elif not (filtered or statement.limited):
        yield _Problem(
            read, _WHOLE, f"{whole}, since no condition filters them; add a WHERE or LIMIT, or cache the result."
        )


def _has_siblings(above: tuple[Node, ...]) -> bool:
    return bool(above) and sum(bool(child.table) for child in above[0].children) > 1


# --- sorts and groups -------------------------------------------------------------------------------------------------


def _sort(node: Node, above: tuple[Node, ...], facts: TableFacts, statement: PlannedStatement) -> Iterator[_Problem]:
    rows = _volume(node)
    size = rows * (node.width + _ROW_OVERHEAD) if node.width else 0
    tables = {child.table for child, _ in walk(node) if child.table}
    rank, remedy = _WHOLE, "a condition, or a LIMIT in the order of an index, would leave fewer rows to sort"
    grouped = any(child.work is Work.GROUP for child, _ in walk(node))
    if node.keys and len(tables) == 1 and not grouped:
        rank, remedy = _ORDERED, f"try {_create_index(tables.pop(), node.keys)}"
    about = f"About {rows:,.0f} rows"
    if statement.limited and all(parent.work is not Work.GROUP for parent in above):
        yield _Problem(rows, rank, f"{about} are sorted to return the first few; {remedy}.")
    elif size > facts.work_memory > 0:
        memory = f"work_mem ({facts.work_memory / _MEBIBYTE:,.0f} MiB)"
        sentence = f"{about} ({size / _MEBIBYTE:,.0f} MiB) are sorted on disk, because they exceed {memory}"
        yield _Problem(rows, rank, f"{sentence}; {remedy}, or raise work_mem.")
    elif not size:
        yield _Problem(rows, rank, f"{about} are sorted without an index; {remedy}.")


def _group(node: Node) -> Iterator[_Problem]:
    about = f"About {_volume(node):,.0f} rows"
    if node.spills:
        sentence = f"{about} are grouped in files on disk, because they exceed work_mem; raise work_mem."
        yield _Problem(_volume(node), _ORDERED, sentence)
    elif not node.width:
        # PostgreSQL, which groups in memory, always states the size of a row
        remedy = "an index on the grouped columns would return the rows in order"
        yield _Problem(_volume(node), _ORDERED, f"{about} go through a temporary table; {remedy}.")


def _volume(node: Node) -> float:
    """Number of rows that enter a node."""
    known = node.rows if node.taken is None else node.taken
    if known is not None:
        return known
    below = ((child.rows or child.read or 0) * child.loops for child, _ in walk(node) if child is not node)
    return max(below, default=0.0)


# --- remedies ---------------------------------------------------------------------------------------------------------


def _advice(node: Node) -> str:
    if not node.keys:
        return "an index on the filtered columns would avoid the scan"
    columns = (" or " if node.either else ", ").join(f"`{key}`" for key in node.keys)
    if node.pattern:
        return f"the pattern for {columns} starts with a wildcard, so only a trigram or full-text index helps"
    if node.indexed:
        remedy = "ANALYZE the table, and check that the types match"
        return f"there is an index on {columns}, but the planner did not expect it to help: {remedy}"
    if node.either and len(node.keys) > 1:
        return f"{columns} need an index each: try {_create_index(node.table, node.keys[:1])} and so on"
    return f"no index fits {columns}: try {_create_index(node.table, node.keys)}"


def _create_index(table: str, keys: tuple[str, ...]) -> str:
    """The DDL of an index, named as SQLAlchemy names indexes."""
    words = "_".join((table.rpartition(".")[2], *keys))
    name = re.sub(r"_*\W+_*", "_", words).strip("_")
    return f"CREATE INDEX ix_{name} ON {table} ({', '.join(keys)})"
