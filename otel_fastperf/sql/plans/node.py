"""A plan as a tree that is the same for every database, and what else is asked of the database to judge it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from otel_fastperf.sql.plans.statement import Statement

#: deeper and further nodes of a plan are left out
DEEPEST: Final = 50
MOST_NODES: Final = 300

#: the rows that a cursor gave
Rows: TypeAlias = Sequence[Sequence[Any]]


class Work(Enum):
    """What a node does, as far as remarks go by it."""

    OTHER = auto()
    #: reads a table from end to end
    SCAN = auto()
    #: sorts all rows that come in
    SORT = auto()
    #: puts rows aside by key, to group them or to drop doubles
    GROUP = auto()
    JOIN = auto()
    #: stops after some rows
    LIMIT = auto()


@dataclass(slots=True, kw_only=True)
class Node:
    """One step of a plan. Texts are free of values; numbers are the database's estimates, None if it gives none."""

    #: as the database names it
    title: str
    work: Work = Work.OTHER
    #: as DDL would write it; "" if it is about no table
    table: str = ""
    #: conditions and sort keys, each a line
    details: tuple[str, ...] = ()
    cost: float | None = None
    #: rows that it gives, each time
    rows: float | None = None
    #: bytes of one row
    width: float = 0
    #: rows that it reads, each time; of scans
    read: float | None = None
    #: rows that come into it, each time, where its children do not tell; of sorts and groups
    taken: float | None = None
    #: how often it is done
    loops: float = 1
    #: what an index would be made of: columns that are compared, or sorted by; as DDL would write them
    keys: tuple[str, ...] = ()
    #: the keys are alternatives (OR), so each needs an index of its own
    either: bool = False
    #: an index that starts with the first key is there already
    indexed: bool = False
    #: it is compared with a pattern that starts with a wildcard
    pattern: bool = False
    #: it does not fit into memory, by the database's own word
    spills: bool = False
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """What the database knows of the tables of a plan."""

    #: rows of each table, by its name as the plan has it
    sizes: Mapping[str, float] = field(default_factory=dict)
    #: first columns of each table's indexes
    indexed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: bytes that one sort may take before it goes to disk; 0 if that is not known
    work_memory: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDialect:
    """How one database is asked for a plan, and how its answers are read. All functions are pure and never raise."""

    #: stands before the statement
    explain: str
    #: statements that make the session harmless: read only, and no longer than that many seconds;
    #: the server's version as SQLAlchemy has it
    prepare: Callable[[float, tuple[int, ...]], tuple[str, ...]]
    #: the plan; None if it is none
    read: Callable[[Rows, Statement], Node | None]
    #: queries for `TableFacts`, and how to read the rows of all of them
    questions: Callable[[Node], tuple[str, ...]]
    facts: Callable[[Rows], TableFacts]
    #: complete the figures of the plan by the facts
    weigh: Callable[[Node, TableFacts], None]
    #: `prepare` has to be in a transaction that the driver opens
    opens_transaction: bool = False


def apply_facts(root: Node, facts: TableFacts) -> None:
    """Give scans the rows of their tables, and say which have an index."""
    for node, _ in walk(root):
        if node.work is Work.SCAN:
            node.read = facts.sizes.get(node.table, node.read)
            indexed = facts.indexed.get(node.table, frozenset())
            if node.either:
                # one that has none is what is missing
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
    """A figure of a plan; some come as texts."""
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
