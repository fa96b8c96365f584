"""What a PromQL expression asks for, by its syntax tree."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser

#: suffixes that a histogram's name gets on the page
HISTOGRAM: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector: the metric, matchers by label, whether it has a window, and what it is an operand of."""

    metric: str
    matchers: Mapping[str, str]
    window: bool
    inside: tuple[str, ...]


def selectors(expr: str) -> list[Selector]:
    """All selectors of an expression; raises ValueError with the parser's words where it cannot be read."""
    return list(_selectors(promql_parser.parse(expr), ()))


def labels(expr: str) -> set[str]:
    """All labels that an expression groups or matches by."""
    return set(_labels(promql_parser.parse(expr)))


def _selectors(node: Any, inside: tuple[str, ...]) -> Iterator[Selector]:
    window = isinstance(node, promql_parser.MatrixSelector)
    found = node.vector_selector if window else node
    if isinstance(found, promql_parser.VectorSelector):
        matchers = {one.name: one.value for one in found.matchers.matchers}
        yield Selector(found.name or "", matchers, window, inside)
    for child, name in _children(node):
        yield from _selectors(child, (*inside, name))


def _children(node: Any) -> Iterator[tuple[Any, str]]:
    """The nodes below one, and what they are operands of."""
    if isinstance(node, promql_parser.Call):
        yield from ((one, node.func.name) for one in node.args)
    elif isinstance(node, promql_parser.BinaryExpr):
        yield node.lhs, str(node.op)
        yield node.rhs, str(node.op)
    elif isinstance(node, promql_parser.AggregateExpr):
        yield node.expr, str(node.op)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.SubqueryExpr | promql_parser.UnaryExpr):
        yield node.expr, ""


def _labels(node: Any) -> Iterator[str]:
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
        yield from modifier.labels
    if isinstance(node, promql_parser.BinaryExpr) and modifier is not None:
        if modifier.matching is not None:
            yield from modifier.matching.labels
        yield from modifier.group_labels or ()
    for child, _ in _children(node):
        yield from _labels(child)


def metric_of(name: str) -> str:
    """A histogram's name without the suffix that one of its series has."""
    for suffix in HISTOGRAM:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
