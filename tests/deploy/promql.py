"""The metrics and labels that a PromQL expression queries, those that exist, and the labels of its result."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
import yaml

from otel_fastperf.metrics import CATALOGUE
from tests.deploy.servers import DEPLOY
from tools.stack_metrics import STACK

Labels = frozenset[str]

RULES: Final = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
#: labels and series that Prometheus adds to every target
TARGET: Final = Labels({"job", "instance"})
#: absent unless a service has its own objectives, see slo-targets.yml, or was shut down for good, see retired.yml
OVERRIDES: Final = {
    name: Labels({"job"})
    for name in (
        "job:slo_availability:override",
        "job:slo_latency:override",
        "job:slo_latency_threshold:override",
        "job:slo_bad_requests:override",
        "job:fastperf_retired:override",
    )
}

#: what Prometheus makes of each alert, beside the labels of the alert
OF_ALERTS: Final = {
    "ALERTS": TARGET | {"alertname", "alertstate", "severity"},
    "ALERTS_FOR_STATE": TARGET | {"alertname", "severity"},
}

_CARDINALITY: Final = promql_parser.VectorMatchCardinality
#: operators that leave series as they are
_FILTERING: Final = {"and", "or", "unless", "==", "!=", ">", "<", ">=", "<="}
#: aggregations that pick series instead of merging them
_PICKING: Final = {"topk", "bottomk", "limitk", "limit_ratio"}


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector: the metric, matchers by label, whether it has a window, and the expressions around it."""

    #: "" for one without a name
    metric: str
    #: label -> the value or pattern it is compared with
    matchers: Mapping[str, str]
    window: bool
    inside: tuple[str, ...]


# the metrics and labels that an expression queries


def selectors(expr: str) -> list[Selector]:
    """All selectors of an expression; raises ValueError with the parser's message if it is invalid."""
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
    """The nodes below one, and the expressions around them."""
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


# the labels of the result


def labels_of(expr: str, known: Mapping[str, Labels]) -> Labels | None:
    """Labels that each series of the result may have; None for a scalar. `known` are the metrics and their labels."""
    return _result(promql_parser.parse(expr), known)


def _result(node: Any, known: Mapping[str, Labels]) -> Labels | None:
    found = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
    if isinstance(found, promql_parser.VectorSelector):
        return known[found.name or ""]
    if isinstance(node, promql_parser.AggregateExpr):
        return _of_aggregation(node, known)
    if isinstance(node, promql_parser.Call):
        return _of_call(node, known)
    if isinstance(node, promql_parser.BinaryExpr):
        return _of_operator(node, known)
    for child, _ in _children(node):
        return _result(child, known)
    return None


def keeps_name(expr: str) -> bool:
    """Whether each series of the result has the name of a metric, in the label `__name__`."""
    return _keeps_name(promql_parser.parse(expr))


def _keeps_name(node: Any) -> bool:
    if isinstance(node, promql_parser.VectorSelector):
        return True
    if isinstance(node, promql_parser.ParenExpr):
        return _keeps_name(node.expr)
    if isinstance(node, promql_parser.AggregateExpr):
        return str(node.op) in _PICKING and _keeps_name(node.expr)
    if isinstance(node, promql_parser.BinaryExpr):
        return str(node.op) in _FILTERING and (_keeps_name(node.lhs) or _keeps_name(node.rhs))
    return False


def _of_aggregation(node: Any, known: Mapping[str, Labels]) -> Labels:
    below = _result(node.expr, known) or Labels()
    if str(node.op) in _PICKING:
        return below
    added = {node.param.val} if isinstance(node.param, promql_parser.StringLiteral) else set()  # of count_values
    if node.modifier is None:
        return Labels(added)
    named = Labels(node.modifier.labels)
    return (named if node.modifier.type == promql_parser.AggModifierType.By else below - named) | added


def _of_call(node: Any, known: Mapping[str, Labels]) -> Labels | None:
    name = node.func.name
    if name in {"time", "scalar"}:
        return None
    if name == "vector":
        return Labels()
    [found] = [one for one in (_result(child, known) for child in node.args) if one is not None]
    if name == "histogram_quantile":
        return found - {"le"}
    return found | {node.args[1].val} if name == "label_replace" else found


def _of_operator(node: Any, known: Mapping[str, Labels]) -> Labels | None:
    left, right = _result(node.lhs, known), _result(node.rhs, known)
    if left is None or right is None:
        return left if right is None else right
    operator = str(node.op)
    if operator in {"and", "or", "unless"}:
        return left & right if operator == "or" else left
    modifier = node.modifier
    if modifier is None or modifier.card == _CARDINALITY.OneToOne:
        return _matched(left, modifier)
    many = left if modifier.card == _CARDINALITY.ManyToOne else right
    return many | Labels(modifier.group_labels or ())


def _matched(left: Labels, modifier: Any) -> Labels:
    """A one-to-one match keeps the labels matched by, even in comparisons: resultMetric() in Prometheus' engine."""
    if modifier is None or modifier.matching is None:
        return left
    named = Labels(modifier.matching.labels)
    return named if modifier.matching.type == promql_parser.LabelModifierType.Include else left - named


# the metrics and labels that exist


def rules(kind: str) -> list[dict[str, Any]]:
    """The shipped rules of a kind: "record" or "alert"."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def missing(expr: str, known: Mapping[str, Labels]) -> set[str]:
    """Metrics and labels that an expression queries and that do not exist."""
    asked = selectors(expr)
    found = {one.metric for one in asked if one.metric and one.metric not in known}
    there = {"__name__"}
    for one in asked:
        # a selector without a name may be any series, which has the labels of targets
        has = known.get(one.metric, Labels()) if one.metric else TARGET
        there |= has
        found |= {f"{one.metric}{{{label}}}" for label in one.matchers.keys() - has - {"__name__"}}
    return found | (labels(expr) - there)


def _ours() -> dict[str, Labels]:
    known: dict[str, Labels] = {}
    for metric in CATALOGUE:
        its = TARGET | set(metric.labels)
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{end}": its for end in ("sum", "count")}
            known[f"{metric.name}_bucket"] = its | {"le"}
        else:
            known[metric.name] = its
    return known


#: our series with their labels, as on the page
OURS: Final[Mapping[str, Labels]] = _ours()
RECORDINGS: Final[Mapping[str, str]] = {rule["record"]: rule["expr"] for rule in rules("record")}


def _known() -> dict[str, Labels]:
    known = {**OVERRIDES, **OF_ALERTS, **OURS, **{name: TARGET | set(one.labels) for name, one in STACK.items()}}
    todo = dict(RECORDINGS)
    while todo:
        # a recording may read its own last value
        ready = [name for name, expr in todo.items() if all(one.metric in {name, *known} for one in selectors(expr))]
        assert ready, f"asks for what nobody shows: {todo}"
        known |= {name: labels_of(todo.pop(name), {name: TARGET, **known}) or Labels() for name in ready}
    return known


#: all series with their labels: ours, the stack's, and those recorded by rules
KNOWN: Final[Mapping[str, Labels]] = _known()

_GAUGES: Final = {metric.name for metric in CATALOGUE if metric.kind == "gauge"}
#: series that only grow, including those of histograms
COUNTERS: Final = {name for name, one in STACK.items() if one.counter} | (OURS.keys() - _GAUGES)
