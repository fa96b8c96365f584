"""A plan as a tree of nodes, in one form for all databases, and the facts about tables that help to judge it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from otel_fastperf.sql.plans.statement import PlannedStatement

#: deeper nodes, and nodes beyond this number, are left out
DEEPEST: Final = 50
MOST_NODES: Final = 300

#: the rows of a cursor
Rows: TypeAlias = Sequence[Sequence[Any]]


class Work(Enum):
    """What a node does, if it matters for remarks."""

    OTHER = auto()
    #: scans a table completely
    SCAN = auto()
    #: sorts all rows that enter it
    SORT = auto()
    #: collects rows by key, to group them or to remove duplicates
    GROUP = auto()
    JOIN = auto()
    #: stops after some rows
    LIMIT = auto()


@dataclass(slots=True, kw_only=True)
class Node:
    """One step of a plan. Texts contain no values; figures are the database's estimates, None if it makes none."""

    #: the database's name for the step
    title: str
    work: Work = Work.OTHER
    #: as written in DDL; "" for a step without a table
    table: str = ""
    #: conditions and sort keys, one per line
    details: tuple[str, ...] = ()
    cost: float | None = None
    #: rows that it returns per execution
    rows: float | None = None
    #: that number is a guess of ours, for a database that makes no estimate
    guessed: bool = False
    #: bytes of one row
    width: float = 0
    #: rows that a scan reads per execution
    read: float | None = None
    #: rows that enter a sort or group per execution, if its children do not have the number
    taken: float | None = None
    #: number of executions
    loops: float = 1
    #: columns for an index: those compared or sorted by, as written in DDL
    keys: tuple[str, ...] = ()
    #: the keys are alternatives (OR), so each needs its own index
    either: bool = False
    #: an index that starts with the first key exists
    indexed: bool = False
    #: a condition has a pattern that starts with a wildcard
    pattern: bool = False
    #: the database expects that it does not fit into memory
    spills: bool = False
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What the database knows about the tables of a plan."""

    #: rows of each table, by its name in the plan
    sizes: Mapping[str, float] = field(default_factory=dict)
    #: first columns of each table's indexes
    indexed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: bytes that a sort may use before it goes to disk; 0 if unknown
    work_memory: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDialect:
    """How a database is asked for a plan, and how its answers are read. The functions are pure and never raise."""

    #: prefix of the statement
    explain: str
    #: statements that make the session read-only and limit its duration: takes seconds and SQLAlchemy's server version
    prepare: Callable[[float, tuple[int, ...]], tuple[str, ...]]
    #: the plan in the rows; None if its format is unknown
    read: Callable[[Rows, PlannedStatement], Node | None]
    #: queries for `TableFacts`, and the facts in the rows of all of them
    questions: Callable[[Node], tuple[str, ...]]
    facts: Callable[[Rows], TableFacts]
    #: completes the figures of the plan by the facts
    weigh: Callable[[Node, TableFacts], None]
    #: `prepare` must run in a transaction that the driver opens
    opens_transaction: bool = False


def apply_facts(root: Node, facts: TableFacts) -> None:
    """Set the rows of scans, and whether they have an index."""
    for node, _ in walk(root):
        if node.work is Work.SCAN:
            node.read = facts.sizes.get(node.table, node.read)
            indexed = facts.indexed.get(node.table, frozenset())
            if node.either:
                # the keys without an index are the ones to name
                node.keys = tuple(key for key in node.keys if key not in indexed) or node.keys
            node.indexed = bool(node.keys) and node.keys[0] in indexed


def walk(root: Node) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Every node with its ancestors, nearest first; parents before children."""
    ahead: list[tuple[Node, tuple[Node, ...]]] = [(root, ())]
    while ahead:
        node, above = ahead.pop()
        yield node, above
        ahead.extend((child, (node, *above)) for child in reversed(node.children))


def number(value: object) -> float | None:
    """A figure of a plan as a number; some are text. None if it is not a figure."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        figure = float(value)
    except (ValueError, OverflowError):
        return None
    return figure if 0 <= figure < float("inf") else None


def text(value: object, length: int = 200) -> str:
    """A name of a plan, on one line."""
    return " ".join(value[: 2 * length].split())[:length] if isinstance(value, str) else ""
