"""`EXPLAIN FORMAT=JSON` of MySQL and MariaDB, which differ in their keys.

https://dev.mysql.com/doc/refman/8.0/en/explain-output.html, https://mariadb.com/kb/en/explain-format-json/. MariaDB's
output may be invalid JSON: it escapes `'`, and before 10.9 an object can have several members of one name. Neither
shows a LIMIT, nor the name of a table that has an alias; both are taken from the statement.
"""

import json
import re
from dataclasses import replace
from typing import Any, Final

from otel_fastperf.sql.plans.node import DEEPEST, MOST_NODES, Node, PlanDialect, Rows, TableFacts, Work, number, text
from otel_fastperf.sql.plans.statement import PlannedStatement, compared, plain_keys, scrubbed, starts_with_wildcard

_DIALECT: Final = "mysql"

_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)

#: keys of steps that contain others: title and work; some steps of MySQL do it only if a flag says so (`_FLAGS`)
_STEPS: Final = {
    "query_block": ("Query", Work.OTHER),
    "ordering_operation": ("Sort", Work.SORT),
    "filesort": ("Sort", Work.SORT),
    "grouping_operation": ("Group", Work.GROUP),
    "duplicates_removal": ("Distinct", Work.GROUP),
    "temporary_table": ("Temporary table", Work.GROUP),
    "buffer_result": ("Buffer", Work.GROUP),
    "windowing": ("Window", Work.OTHER),
    "union_result": ("Union", Work.OTHER),
    "materialized": ("Materialize", Work.OTHER),
    "materialized_from_subquery": ("Materialize", Work.OTHER),
    "block-nl-join": ("Block nested loop", Work.JOIN),
    "expression_cache": ("Subquery for each row", Work.OTHER),
}
_FLAGS: Final = {
    "ordering_operation": "using_filesort",
    "grouping_operation": "using_temporary_table",
    "duplicates_removal": "using_temporary_table",
    "buffer_result": "using_temporary_table",
}
_CONDITIONS: Final = (
    ("index_condition", "Index Cond"),
    ("attached_condition", "Filter"),
    ("having_condition", "Having"),
    ("sort_key", "Sort Key"),
)
_ACCESS: Final = {
    "ALL": "Table scan",
    "index": "Index scan",
    "range": "Index range scan",
    "ref": "Index look-up",
    "eq_ref": "Unique look-up",
    "const": "Constant row",
}
_SCANS: Final = frozenset({"ALL", "index"})


class _Object(list[tuple[str, Any]]):
    """A JSON object as the list of its members."""

    def get(self, name: str) -> Any:
        return next((value for key, value in self if key == name), None)


def _prepare_mysql(seconds: float, version: tuple[int, ...]) -> tuple[str, ...]:
    # 8.3 and later have two formats of the document
    form = ", explain_json_format_version = 1" if version >= (8, 3) else ""
    limit = max(1, int(seconds * 1000))
    return (f"SET SESSION max_execution_time = {limit}{form}", "START TRANSACTION READ ONLY")


def _prepare_mariadb(seconds: float, _version: tuple[int, ...]) -> tuple[str, ...]:
    return (f"SET SESSION max_statement_time = {seconds:.3f}", "START TRANSACTION READ ONLY")


def _read(rows: Rows, statement: PlannedStatement) -> Node | None:
    answer = _answer(rows)
    block = answer.get("query_block") if isinstance(answer, _Object) else None
    if not isinstance(block, _Object):
        return None
    reader = _MysqlReader(statement)
    return reader.step("query_block", block, 1, 0)


def _answer(rows: Rows) -> Any:
    try:
        document = rows[0][0]
        if isinstance(document, bytes | bytearray):
            document = document.decode("utf-8", "replace")
        if not isinstance(document, str):
            return None
        return json.loads(_ESCAPE.sub(_escape, document), object_pairs_hook=_Object)
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _escape(match: re.Match[str]) -> str:
    """Replace an escape that JSON does not allow by an escaped backslash."""
    return match[0] if match[1] in '"\\/bfnrtu' else "\\\\" + match[1]


class _MysqlReader:
    def __init__(self, statement: PlannedStatement) -> None:
        self._statement = statement
        self._left = MOST_NODES
        #: rows that the last step passes on, all loops together
        self._given = 1.0

    def step(self, name: str, value: _Object, loops: float, depth: int) -> Node:
        """Read a member that is a step of the plan, with everything inside."""
        self._left -= 1
        title, work = _STEPS[name]
        flag = _FLAGS.get(name)
        cost = value.get("cost_info")
        node = Node(
            title=title,
            work=work if flag is None or value.get(flag) is True else Work.OTHER,
            details=_details(value),
            cost=number(cost.get("query_cost") if isinstance(cost, _Object) else value.get("cost")),
            loops=loops,
        )
        self._inside(value, node, loops, depth + 1)
        if node.work is Work.SORT:
            keys = value.get("sort_key")
            node.keys = plain_keys(keys.split(",")) if isinstance(keys, str) else self._statement.order
        if name == "block-nl-join":
            self._buffered(value, node)
        return node

    def _inside(self, value: _Object, node: Node, loops: float, depth: int) -> None:
        self._given = loops
        for name, member in value:
            if depth > DEEPEST or self._left <= 0:
                return
            if name == "table" and isinstance(member, _Object):
                node.children.append(self._table(member, loops, depth))
            elif name in _STEPS and isinstance(member, _Object):
                node.children.append(self.step(name, member, self._times(name, member, value, loops), depth))
            elif name == "nested_loop" and isinstance(member, list):
                self._nested(member, node, loops, depth)
            else:
                self._through(member, node, depth)

    def _times(self, name: str, member: _Object, value: _Object, loops: float) -> float:
        """Number of executions: a dependent step runs for each row, a materialized one once."""
        if name.startswith("materialized"):
            return loops if member.get("dependent") is True else 1
        return self._given if name == "expression_cache" or value.get("dependent") is True else loops

    def _nested(self, members: list[Any], node: Node, loops: float, depth: int) -> None:
        """Read joined tables: each is accessed for each row of those before it."""
        given = loops
        for member in members:
            if isinstance(member, _Object):
                self._inside(member, node, given, depth + 1)
                given = max(1.0, self._given)
        self._given = given

    def _through(self, member: Any, node: Node, depth: int) -> None:
        """Read a member that may contain steps: lists of subqueries, `read_sorted_file`, keys of later versions."""
        members = [member] if isinstance(member, _Object) else member if isinstance(member, list) else []
        given = self._given
        for each in members:
            if isinstance(each, _Object):
                self._given = given
                loops = given if each.get("dependent") is True or each.get("expression_cache") is not None else 1.0
                self._inside(each, node, loops, depth + 1)

    def _table(self, table: _Object, loops: float, depth: int) -> Node:
        self._left -= 1
        alias = text(table.get("table_name"))
        access = text(table.get("access_type"))
        real = bool(alias) and not alias.startswith("<")
        name = self._statement.table(alias) if real else alias
        condition = table.get("attached_condition")
        condition = condition if isinstance(condition, str) else ""
        read = number(table.get("rows_examined_per_scan"))
        read = number(table.get("rows")) if read is None else read
        node = Node(
            title=_title(table, access, name, alias),
            work=Work.SCAN if real and access in _SCANS else Work.OTHER,
            table=name if real else "",
            details=_details(table),
            read=read,
            loops=loops,
            indexed=bool(table.get("possible_keys")),
            pattern=starts_with_wildcard(condition),
        )
        if table.get("using_join_buffer") == "hash join":
            node.loops = 1
        comparisons = compared(scrubbed(condition, _DIALECT), alias, calls=False)
        node.keys, node.either = comparisons.keys, comparisons.either
        self._inside(table, node, loops * (read or 1), depth + 1)
        self._given = self._handed_on(table, loops, read)
        return node

    def _handed_on(self, table: _Object, loops: float, read: float | None) -> float:
        produced = number(table.get("rows_produced_per_join"))
        if produced is not None:
            return produced
        filtered = number(table.get("filtered"))
        return loops * (read or 1) * (100.0 if filtered is None else filtered) / 100

    def _buffered(self, value: _Object, node: Node) -> None:
        """Read the condition of MariaDB's buffered join, which is outside of its table."""
        condition = value.get("attached_condition")
        for child in node.children:
            if child.work is Work.SCAN and isinstance(condition, str) and not child.keys:
                alias = text(value.get("table").get("table_name"))
                child.keys = compared(scrubbed(condition, _DIALECT), alias, calls=False).keys
            if value.get("join_type") == "BNLH":
                child.loops = 1


def _title(table: _Object, access: str, name: str, alias: str) -> str:
    message = text(table.get("message"))
    if message:
        return message
    words = [_ACCESS.get(access, access or "Table"), "on", name or "?"]
    key = text(table.get("key"))
    if key:
        words[1:1] = ["using", key]
    if alias and alias != name:
        words.append(alias)
    return " ".join(words)


def _details(value: _Object) -> tuple[str, ...]:
    return tuple(
        f"{label}: {scrubbed(condition, _DIALECT)}"
        for name, label in _CONDITIONS
        if isinstance(condition := value.get(name), str)
    )


def _questions(_root: Node) -> tuple[str, ...]:
    return ()


def _facts(_rows: Rows) -> TableFacts:
    return TableFacts()


def _weigh(_root: Node, _facts: TableFacts) -> None:
    """Do nothing: all figures are in the plan."""


MYSQL: Final = PlanDialect(
    explain="EXPLAIN FORMAT=JSON ",
    prepare=_prepare_mysql,
    read=_read,
    questions=_questions,
    facts=_facts,
    weigh=_weigh,
)
MARIADB: Final = replace(MYSQL, prepare=_prepare_mariadb)
