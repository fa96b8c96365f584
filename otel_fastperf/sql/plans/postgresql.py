"""PostgreSQL's `EXPLAIN (FORMAT JSON, VERBOSE)`: https://www.postgresql.org/docs/current/sql-explain.html.

VERBOSE adds the schema of each table, and the table's alias to columns. Only a list of known keys is read, so a plan is
shown without any text that still has values.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from otel_fastperf.sql.plans.node import (
    DEEPEST,
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
from otel_fastperf.sql.plans.statement import (
    PlannedStatement,
    compared,
    plain_keys,
    scrubbed,
    starts_with_wildcard,
)

_DIALECT: Final = "postgresql"

_WORKS: Final = {
    "Seq Scan": Work.SCAN,
    "Sort": Work.SORT,
    "Incremental Sort": Work.OTHER,
    "Aggregate": Work.GROUP,
    "Nested Loop": Work.JOIN,
    "Hash Join": Work.JOIN,
    "Merge Join": Work.JOIN,
    "Limit": Work.LIMIT,
}
_CONDITIONS: Final = ("Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "TID Cond", "Filter")
_KEYS: Final = ("Sort Key", "Presorted Key", "Group Key")
#: most tables whose facts are queried
_MOST_TABLES: Final = 20
#: number of fields in a row of facts: table, rows, columns, work_mem in KiB
_FIELDS: Final = 4


def _prepare(seconds: float, _version: tuple[int, ...]) -> tuple[str, ...]:
    # both end with the transaction, so they do not leak through a pooler that shares connections
    return ("SET TRANSACTION READ ONLY", f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}")


def _read(rows: Rows, _statement: PlannedStatement) -> Node | None:
    answer = _answer(rows)
    if isinstance(answer, list) and answer:
        answer = answer[0]
    plan = answer.get("Plan") if isinstance(answer, dict) else None
    if not isinstance(plan, dict):
        return None
    reader = _PostgresqlReader()
    root = reader.node(plan, loops=1, share=1, depth=0)
    reader.join_keys(root)
    return root


def _answer(rows: Rows) -> Any:
    """The document, which drivers return parsed or as text."""
    try:
        answer = rows[0][0]
        return json.loads(answer) if isinstance(answer, str | bytes) else answer
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None


class _PostgresqlReader:
    def __init__(self) -> None:
        self._left = MOST_NODES
        #: alias of each scan
        self._aliases: dict[int, str] = {}
        #: conditions of each join
        self._joins: dict[int, str] = {}

    def node(self, plan: Mapping[str, Any], *, loops: float, share: float, depth: int) -> Node:
        """Read a node. Its rows are those of one worker; times `share` they are those of all workers."""
        self._left -= 1
        kind = text(plan.get("Node Type")) or "?"
        parallel = share if plan.get("Parallel Aware") is True else 1
        given = number(plan.get("Plan Rows"))
        node = Node(
            title=_title(plan, kind),
            work=_WORKS.get(kind, Work.OTHER),
            table=_table(plan),
            details=tuple(_details(plan)),
            cost=number(plan.get("Total Cost")),
            rows=None if given is None else given * (parallel if kind.endswith("Scan") else share),
            width=number(plan.get("Plan Width")) or 0,
            loops=loops,
            spills=(number(plan.get("Planned Partitions")) or 0) > 0,
        )
        self._judge(plan, node)
        workers = number(plan.get("Workers Planned")) or 0
        # the leader helps, less so with more workers; see get_parallel_divisor in costsize.c
        inner = workers + max(0.0, 1 - 0.3 * workers) if workers else share
        self._children(plan, node, share=inner, depth=depth + 1)
        return node

    def _judge(self, plan: Mapping[str, Any], node: Node) -> None:
        alias = text(plan.get("Alias"))
        if node.work is Work.SCAN:
            self._aliases[id(node)] = alias
            condition = plan.get("Filter")
            if isinstance(condition, str):
                shown = scrubbed(condition, _DIALECT)
                comparisons = compared(shown, alias)
                node.keys, node.either = comparisons.keys, comparisons.either
                node.pattern = starts_with_wildcard(condition)
            # an estimate without facts: a row costs at least cpu_tuple_cost, and as much again for its page
            cost = node.cost or 0
            node.read = max(cost / 0.02, node.rows or 0)
        elif node.work is Work.SORT:
            keys = plan.get("Sort Key")
            node.keys = plain_keys([key for key in keys if isinstance(key, str)]) if isinstance(keys, list) else ()
        elif node.work is Work.JOIN:
            conditions = (plan.get(name) for name in ("Hash Cond", "Merge Cond", "Join Filter"))
            self._joins[id(node)] = " AND ".join(
                scrubbed(condition, _DIALECT) for condition in conditions if isinstance(condition, str)
            )

    def _children(self, plan: Mapping[str, Any], node: Node, *, share: float, depth: int) -> None:
        children = plan.get("Plans")
        if not isinstance(children, list) or depth > DEEPEST:
            return
        outer = 1.0
        for child in children:
            if not isinstance(child, dict) or self._left <= 0:
                continue
            relation = child.get("Parent Relationship")
            loops = node.loops
            if relation == "SubPlan" and not _is_hashed(plan, child):
                loops *= max(1.0, number(plan.get("Plan Rows")) or 1)
            elif relation == "Inner" and plan.get("Node Type") == "Nested Loop":
                loops *= max(1.0, outer)
            made = self.node(child, loops=loops, share=share, depth=depth)
            if relation == "Outer":
                outer = made.rows or 1
            node.children.append(made)

    def join_keys(self, root: Node) -> None:
        """Set the join columns as keys of scans that have no condition of their own."""
        for node, above in walk(root):
            alias = self._aliases.get(id(node))
            if alias and not node.keys and not any(detail.startswith("Filter") for detail in node.details):
                join = next((each for each in above if each.work is Work.JOIN), None)
                condition = self._joins.get(id(join), "")
                node.keys = compared(condition, alias).keys


def _is_hashed(plan: Mapping[str, Any], child: Mapping[str, Any]) -> bool:
    """True for a subplan that is executed once, because its result is kept in a hash table."""
    name = f"(hashed {text(child.get('Subplan Name'))})"
    return any(name in condition for condition in (plan.get("Filter"), plan.get("Join Filter")) if condition)


def _title(plan: Mapping[str, Any], kind: str) -> str:
    if kind == "Aggregate" and plan.get("Strategy") == "Hashed":
        kind = "HashAggregate"
    words = [kind]
    index = text(plan.get("Index Name"))
    if index:
        words.append(f"using {index}")
    table = _table(plan) or text(plan.get("CTE Name")) or text(plan.get("Function Name"))
    alias = text(plan.get("Alias"))
    if table:
        words.append(f"on {table}")
        if alias and alias != text(plan.get("Relation Name")) and alias != table:
            words.append(alias)
    if plan.get("Parallel Aware") is True:
        words.insert(0, "Parallel")
    subplan = text(plan.get("Subplan Name"))
    return f"{subplan}: {' '.join(words)}" if subplan else " ".join(words)


def _table(plan: Mapping[str, Any]) -> str:
    table = text(plan.get("Relation Name"))
    schema = text(plan.get("Schema"))
    if not table or not schema or schema == "public":
        return _quoted(table)
    return f"{_quoted(schema)}.{_quoted(table)}"


def _quoted(name: str) -> str:
    plain = name.isidentifier() and name.isascii() and name == name.lower()
    return name if plain or not name else '"' + name.replace('"', '""') + '"'


def _details(plan: Mapping[str, Any]) -> list[str]:
    details = [f"{name}: {scrubbed(plan[name], _DIALECT)}" for name in _CONDITIONS if isinstance(plan.get(name), str)]
    for name in _KEYS:
        keys = plan.get(name)
        if isinstance(keys, list):
            shown = ", ".join(scrubbed(key, _DIALECT) for key in keys[:20] if isinstance(key, str))
            details.append(f"{name}: {shown}")
    return details


def _questions(root: Node) -> tuple[str, ...]:
    """One query for rows and indexes of the scanned tables, and for the memory of a sort."""
    tables = sorted({node.table for node, _ in walk(root) if node.work is Work.SCAN and node.table})[:_MOST_TABLES]
    names = ", ".join("'" + table.replace("'", "''") + "'" for table in tables if "\\" not in table)
    if not names:
        names = "''"
    question = (
        "SELECT t.name, c.reltuples::float8,"  # noqa: S608 - the names come from the database, and are quoted
        " (SELECT string_agg(pg_catalog.pg_get_indexdef(i.indexrelid, 1, true), chr(10))"
        " FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indpred IS NULL),"
        " (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'work_mem')"
        f" FROM unnest(ARRAY[{names}]::text[]) t(name)"
        " LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(nullif(t.name, ''))"
    )
    return (question,)


def _facts(rows: Rows) -> TableFacts:
    sizes: dict[str, float] = {}
    indexed: dict[str, frozenset[str]] = {}
    work_memory = 0.0
    for row in rows:
        if len(row) != _FIELDS:
            continue
        table, count, columns, setting = row
        size = number(count)
        # -1 for a table that was never analysed, 0 for a partitioned one
        if isinstance(table, str) and size:
            sizes[table] = size
        if isinstance(table, str) and isinstance(columns, str):
            indexed[table] = frozenset(columns.split("\n"))
        work_memory = (number(setting) or 0) * 1024
    return TableFacts(sizes=sizes, indexed=indexed, work_memory=work_memory)


POSTGRESQL: Final = PlanDialect(
    explain="EXPLAIN (FORMAT JSON, VERBOSE) ",
    prepare=_prepare,
    read=_read,
    questions=_questions,
    facts=_facts,
    weigh=apply_facts,
    opens_transaction=True,
)
