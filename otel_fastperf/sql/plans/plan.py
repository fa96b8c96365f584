"""A plan as it is shown: its text, the remark on its worst problem, and a hash of its shape."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from otel_fastperf.internals.text_safety import encodable
from otel_fastperf.sql.plans.mysql import MARIADB, MYSQL
from otel_fastperf.sql.plans.node import Node, PlanDialect, TableFacts, Work, walk
from otel_fastperf.sql.plans.postgresql import POSTGRESQL
from otel_fastperf.sql.plans.remarks import MANY_ROWS, remark_on
from otel_fastperf.sql.plans.sqlite import SQLITE
from otel_fastperf.sql.plans.statement import PlannedStatement

#: by SQLAlchemy's name of the dialect, except that MariaDB is `mariadb`
PLAN_DIALECTS: Final[dict[str, PlanDialect]] = {
    "postgresql": POSTGRESQL,
    "mysql": MYSQL,
    "mariadb": MARIADB,
    "sqlite": SQLITE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a database would execute a statement. Contains no values.

    Attributes:
        text: A line for each step and each of its conditions, indented; ends with `…` if it was cut.
        hash: 16 hex digits; equal for plans that differ in figures only.
        remark: One sentence about the worst problem; "" if none was found.
        top: The first step.
        cost: The database's estimate, in its own unit; None if it makes none.
        scans: Tables that are scanned completely, with their rows; None if the number is unknown.
        reads: Rows that are read from tables in all; None if the database does not estimate them.
    """

    text: str
    hash: str
    remark: str
    top: str
    cost: float | None
    scans: tuple[tuple[str, float | None], ...]
    reads: float | None = None


def plan_of(
    database: PlanDialect, root: Node, statement: PlannedStatement, facts: TableFacts, *, max_length: int = 4096
) -> Plan:
    """Make the plan from the nodes that `database.read` returned; its text has at most `max_length` characters."""
    database.weigh(root, facts)
    shape = "\n".join(f"{depth} {line}" for depth, line, _ in _lines(root))
    return Plan(
        text=_cut([f"{'  ' * depth}{line}{figures}" for depth, line, figures in _lines(root)], max_length),
        hash=blake2b(shape.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        remark=remark_on(root, facts, statement),
        top=root.title,
        cost=root.cost,
        scans=tuple((node.table, node.read) for node, _ in walk(root) if node.work is Work.SCAN),
        reads=_reads(root),
    )


def _reads(root: Node) -> float | None:
    steps = [node for node, _ in walk(root) if node.table]
    figures = [(node.rows if node.read is None else node.read, node.loops) for node in steps]
    known = [rows * loops for rows, loops in figures if rows is not None]
    is_known = len(known) == len(steps) > 0 and not any(node.guessed for node in steps)
    return sum(known) if is_known else None


def remedy_by(plan: Plan) -> str:
    """What the plan says about the remedy of a slow statement; "" if that is nothing."""
    if plan.remark:
        return plan.remark
    if plan.reads is None or plan.reads >= MANY_ROWS:
        return ""
    return (
        f"The plan reads few rows (about {plan.reads:,.0f}), so no index helps. Find out what the statement waits for:"
        " a lock that another transaction keeps, a busy database, or a function that it calls."
    )


def _lines(root: Node) -> Iterator[tuple[int, str, str]]:
    """Indentation, text and figures of each line."""
    for node, above in walk(root):
        yield len(above), node.title, _figures(node)
        for detail in node.details:
            yield len(above) + 2, detail, ""


def _figures(node: Node) -> str:
    figures = (("cost", node.cost), ("rows", node.rows), ("of", node.read))
    shown = " ".join(f"{name}={figure:,.0f}" for name, figure in figures if figure is not None)
    return f"  ({shown})" if shown else ""


def _cut(lines: list[str], length: int) -> str:
    """As many whole lines as fit."""
    text = encodable("\n".join(lines))
    if len(text) <= length:
        return text
    head = text[: length - 1]
    return head[: max(head.rfind("\n"), 0)] + "…"
