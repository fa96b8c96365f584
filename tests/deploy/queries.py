"""PromQL, read: which series an expression asks for, and which labels its result has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser as promql

from otel_fastperf.metrics import CATALOGUE

_TARGET: Final = frozenset({"job", "instance"})
_SET_OPERATORS: Final = {"and", "or", "unless"}

#: series of Prometheus, of Alertmanager, of the collector and of Jaeger, as the real ones have been seen to show them
FOREIGN: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(labels)
    for name, labels in {
        "up": (),
        "ALERTS": ("alertname", "alertstate", "severity"),
        "scrape_samples_post_metric_relabeling": (),
        "scrape_samples_scraped": (),
        "scrape_sample_limit": (),
        "scrape_duration_seconds": (),
        "scrape_timeout_seconds": (),
        "prometheus_rule_evaluation_failures_total": ("rule_group",),
        "prometheus_config_last_reload_successful": (),
        "prometheus_notifications_errors_total": ("alertmanager",),
        "prometheus_notifications_alertmanagers_discovered": (),
        "alertmanager_config_last_reload_successful": (),
        "alertmanager_notifications_failed_total": ("integration", "reason"),
        "otelcol_receiver_accepted_spans": ("receiver", "transport"),
        "otelcol_receiver_refused_spans": ("receiver", "transport"),
        "otelcol_processor_memory_limiter_refused_spans": ("processor",),
        "otelcol_exporter_sent_spans": ("exporter",),
        "otelcol_exporter_send_failed_spans": ("exporter",),
        "otelcol_exporter_enqueue_failed_spans": ("exporter",),
        "otelcol_exporter_queue_size": ("exporter", "data_type"),
        "otelcol_exporter_queue_capacity": ("exporter", "data_type"),
        "jaeger_storage_requests": ("kind", "name", "operation", "result", "role"),
    }.items()
}


def _ours() -> dict[str, frozenset[str]]:
    known: dict[str, frozenset[str]] = {}
    for metric in CATALOGUE:
        labels = frozenset(metric.labels)
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{end}": labels for end in ("sum", "count")}
            known[f"{metric.name}_bucket"] = labels | {"le"}
        else:
            known[metric.name] = labels
    return known


OURS: Final[Mapping[str, frozenset[str]]] = _ours()


@dataclass(frozen=True)
class Selector:
    """One selector of an expression."""

    name: str
    #: label -> the value or pattern it is compared with
    matchers: Mapping[str, str]


def selectors(expression: str) -> list[Selector]:
    """All selectors of an expression; one without a name is called ""."""
    return [
        Selector(node.name or "", {matcher.name: matcher.value for matcher in node.matchers.matchers})
        for node in _nodes(promql.parse(expression))
        if isinstance(node, promql.VectorSelector)
    ]


def grouped_by(expression: str) -> set[str]:
    """Labels that an expression groups or matches by."""
    found: set[str] = set()
    for node in _nodes(promql.parse(expression)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
        if isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            found |= set(node.modifier.matching.labels)
    return found


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: Any) -> list[Any]:
    if isinstance(node, promql.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql.Call):
        return list(node.args)
    if isinstance(node, promql.MatrixSelector):
        return [node.vector_selector]
    return [node.expr] if hasattr(node, "expr") else []


def labels_of(expression: str, known: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    """Labels that each series of the result may have; None for a scalar. `known` are the metrics and their labels."""
    return _labels(promql.parse(expression), known)


def _labels(node: Any, known: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    if isinstance(node, promql.VectorSelector):
        return known[node.name or ""]
    if isinstance(node, promql.AggregateExpr):
        added = {node.param.val} if isinstance(node.param, promql.StringLiteral) else set()  # of count_values
        return frozenset(added | set(node.modifier.labels if node.modifier else ()))
    if isinstance(node, promql.Call):
        return _of_call(node, known)
    if isinstance(node, promql.BinaryExpr):
        return _of_operator(node, known)
    children = _children(node)
    return _labels(children[0], known) if children else None


def _of_call(node: Any, known: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    name = node.func.name
    if name in {"time", "scalar"}:
        return None
    if name == "vector":
        return frozenset()
    [labels] = [found for found in (_labels(child, known) for child in node.args) if found is not None]
    if name == "histogram_quantile":
        return labels - {"le"}
    return labels | {node.args[1].val} if name == "label_replace" else labels


def _of_operator(node: Any, known: Mapping[str, frozenset[str]]) -> frozenset[str] | None:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    if left is None or right is None:
        return left if right is None else right
    operator = str(node.op)
    if operator in _SET_OPERATORS:
        return left & right if operator == "or" else left
    # one to one, a result keeps what was matched by, also in comparisons; see resultMetric() of Prometheus' engine
    matching = node.modifier.matching if node.modifier is not None else None
    if matching is not None and node.modifier.card == promql.VectorMatchCardinality.OneToOne:
        return frozenset(matching.labels)
    return left


def everything(recorded: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """All metrics with their labels: ours, foreign ones, and what rules record: {name: expression}."""
    known = {name: labels | _TARGET for name, labels in {**OURS, **FOREIGN}.items()}
    todo = dict(recorded)
    while todo:
        ready = [name for name, text in todo.items() if all(one.name in known for one in selectors(text))]
        assert ready, f"asks for what nobody shows: {todo}"
        known |= {name: labels_of(todo.pop(name), known) or frozenset() for name in ready}
    return known
