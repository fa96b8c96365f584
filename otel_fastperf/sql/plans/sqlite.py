"""SQLite's `EXPLAIN QUERY PLAN`: https://www.sqlite.org/eqp.html. Its lines have no values, conditions or figures.

Conditions and sort keys are taken from the statement. The number of rows of a table is estimated by its largest rowid,
which takes one look-up.
"""

import re
from typing import Final

from otel_fastperf.sql.plans.node import (
    MOST_NODES,
    Node,
    PlanDialect,
    Rows,
    TableFacts,
    Work,
    apply_facts,
    number,
    text,
    walk,
)
from otel_fastperf.sql.plans.statement import PlannedStatement, compared

#: most tables whose rows are queried
_MOST_TABLES: Final = 20
_ACCESS: Final = re.compile(r"(?P<verb>SCAN|SEARCH)(?: TABLE)? (?P<name>\S+)(?: AS (?P<alias>\S+))?(?P<rest>.*)")
#: texts of scans that do not scan a table
_NO_TABLE: Final = ("VIRTUAL TABLE", "CONSTANT ROW", "SUBQUERY", "SCAN (", "SEARCH (")
#: number of fields in a line of a plan: id, parent, unused, detail
_FIELDS: Final = 4
#: rows that a look-up by equality returns, and the share of a table that one by a range returns: SQLite's own guesses
#: for a table without ANALYZE
_EQUAL_ROWS: Final = 10.0
_RANGE_SHARE: Final = 0.25


def _prepare(seconds: float, _version: tuple[int, ...]) -> tuple[str, ...]:
    return (f"PRAGMA busy_timeout = {max(1, int(seconds * 1000))}", "PRAGMA query_only = ON")


def _read(rows: Rows, statement: PlannedStatement) -> Node | None:
    root = Node(title="Query")
    nodes: dict[object, Node] = {0: root}
    for row in rows[:MOST_NODES]:
        if len(row) != _FIELDS or not all(isinstance(number_, int) for number_ in row[:2]):
            continue
        identity, parent, _, detail = row
        node = _node(text(detail), statement)
        nodes.get(parent, root).children.append(node)
        # a line whose id is its parent's must not become its own child
        nodes.setdefault(identity, node)
    return root if root.children else None


def _node(detail: str, statement: PlannedStatement) -> Node:
    node = Node(title=detail)
    access = _ACCESS.match(detail)
    if access is not None and not any(words in detail for words in _NO_TABLE):
        _judge(node, access, statement)
    elif detail.startswith("USE TEMP B-TREE FOR") and "ORDER BY" in detail:
        node.work, node.keys = Work.SORT, statement.order
    elif "TEMP B-TREE" in detail:
        node.work = Work.GROUP
    return node


def _judge(node: Node, access: re.Match[str], statement: PlannedStatement) -> None:
    name, rest = access["name"], access["rest"]
    alias = access["alias"] or name
    if access["verb"] == "SEARCH":
        node.rows = 1.0 if "rowid=?" in rest else _EQUAL_ROWS if "=?" in rest else None
        node.guessed = "rowid=?" not in rest
        node.table = statement.table(alias) if access["alias"] is None else name
        return
    node.work = Work.SCAN
    node.table = statement.table(alias) if access["alias"] is None else name
    comparisons = compared(statement.text, alias, single=statement.single)
    node.keys, node.either = comparisons.keys, comparisons.either


def _questions(root: Node) -> tuple[str, ...]:
    """One query per table, so that only the query for a name that is not a table (of a WITH clause) fails."""
    tables = dict.fromkeys(node.table for node, _ in walk(root) if node.table)
    return tuple(_question(table) for table in list(tables)[:_MOST_TABLES])


def _question(table: str) -> str:
    schema, dot, name = table.rpartition(".")
    identifier = ".".join('"' + part.replace('"', '""') + '"' for part in ((schema, name) if dot else (name,)))
    literal = _literal(name)
    master = f'"{schema}".sqlite_master' if dot else "sqlite_master"
    # for a view, the largest rowid would be found by executing it
    return (
        f"SELECT {_literal(table)},"  # noqa: S608 - the names come from the database, and are quoted
        f" CASE WHEN EXISTS (SELECT 1 FROM {master} WHERE type = 'table' AND name = {literal} COLLATE NOCASE)"
        f" THEN (SELECT max(_rowid_) FROM {identifier}) END,"
        f" (SELECT group_concat(c.name, char(10)) FROM pragma_index_list({literal}) i"
        " JOIN pragma_index_info(i.name) c ON c.seqno = 0 AND i.partial = 0)"
    )


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _facts(rows: Rows) -> TableFacts:
    sizes: dict[str, float] = {}
    indexed: dict[str, frozenset[str]] = {}
    for row in rows:
        if len(row) == _FIELDS - 1 and isinstance(row[0], str):
            sizes[row[0]] = number(row[1]) or 0
            indexed[row[0]] = frozenset(row[2].split("\n")) if isinstance(row[2], str) else frozenset()
    return TableFacts(sizes=sizes, indexed=indexed)


def _weigh(root: Node, facts: TableFacts) -> None:
    """Set the loops: lines of one parent are nested loops, the first outermost; correlated subqueries run per row."""
    apply_facts(root, facts)
    for node, _ in walk(root):
        rows, tables = node.loops, set()
        for child in node.children:
            child.loops = rows if child.table or child.title.startswith("CORRELATED") else node.loops
            if child.table:
                tables.add(child.table)
                rows *= max(1.0, _given(child, facts))
            elif child.work in {Work.SORT, Work.GROUP} and not child.children:
                # its input is the lines before it
                child.taken = rows / node.loops if tables else None
                child.table = tables.pop() if len(tables) == 1 else ""


def _given(node: Node, facts: TableFacts) -> float:
    size = facts.sizes.get(node.table, 0)
    if node.work is Work.SCAN:
        return size
    return size * _RANGE_SHARE if node.rows is None else node.rows


SQLITE: Final = PlanDialect(
    explain="EXPLAIN QUERY PLAN ",
    prepare=_prepare,
    read=_read,
    questions=_questions,
    facts=_facts,
    weigh=_weigh,
)
