"""Metrics with a sample in every family of the catalogue."""

from otel_fastperf.metrics import CATALOGUE, Family, Metrics

EXEMPLAR = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def filled(metrics: Metrics) -> Metrics:
    """Give each metric one sample, with the label values `x`; histograms get an exemplar."""
    for metric in CATALOGUE:
        if metric.source != "prometheus" and metric.name != "fastperf_metric_overflow_total":
            declared = metrics.declared(metric.name)
            child = declared.child(*("x" for _ in metric.labels)) if isinstance(declared, Family) else declared
            if metric.kind == "histogram":
                child.observe(0.3, EXEMPLAR)
            else:
                child.inc()
    metrics._overflow.labels("x", "x").inc()
    return metrics
