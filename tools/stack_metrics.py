"""The stack's own metrics that rules, runbooks and dashboards query: {name on the page: meaning}.

The collector's names change with its versions, and a rule on a name that no longer exists never fires. So tests/deploy
asserts that rules and dashboards use only these names and that the real servers expose them. Those of the collector and
of Jaeger have no `_total` and no units, because of the three `without_…` keys in the configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Series:
    """Meaning and labels of a metric, without `job` and `instance`, which Prometheus adds."""

    says: str
    labels: tuple[str, ...] = ()
    counter: bool = False


#: from the start
COLLECTOR_ALWAYS: Final = {
    "otelcol_exporter_queue_capacity": Series(
        "maximum size of the queue; bytes for traces, requests for span metrics", ("exporter", "data_type")
    ),
    "otelcol_exporter_queue_size": Series("size of the queue, in the unit of its capacity", ("exporter", "data_type")),
    "otelcol_process_cpu_seconds": Series("CPU time", counter=True),
    "otelcol_process_memory_rss": Series("resident memory, bytes"),
}

#: with the first spans
COLLECTOR_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": Series("spans accepted", ("receiver", "transport"), counter=True),
    "otelcol_receiver_refused_spans": Series(
        "spans refused; the app sends them again", ("receiver", "transport"), counter=True
    ),
    "otelcol_exporter_sent_spans": Series("spans that the back end accepted", ("exporter",), counter=True),
}

#: with the first span that was a probe
COLLECTOR_WITH_PROBES: Final = {
    "otelcol_processor_filter_spans_filtered": Series(
        "spans of health, metrics and docs routes", ("filter",), counter=True
    ),
}

#: absent until the first event, so rules must treat absence as 0
COLLECTOR_WITH_TROUBLE: Final = {
    "otelcol_exporter_send_failed_spans": Series(
        "spans lost because the back end refused them or was down too long", ("exporter",), counter=True
    ),
    "otelcol_exporter_enqueue_failed_spans": Series(
        "spans lost because the queue was full", ("exporter",), counter=True
    ),
    "otelcol_processor_memory_limiter_refused_spans": Series(
        "spans refused because memory is short", ("processor",), counter=True
    ),
}

#: with the overlay tail-sampling.yaml, whose comments mention it
COLLECTOR_TAIL_SAMPLING: Final = {
    "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early": Series(
        "traces decided before TAIL_DECISION_WAIT was over", counter=True
    ),
}

COLLECTOR: Final = (
    COLLECTOR_ALWAYS | COLLECTOR_WITH_SPANS | COLLECTOR_WITH_PROBES | COLLECTOR_WITH_TROUBLE | COLLECTOR_TAIL_SAMPLING
)

#: Jaeger's, from the start
JAEGER_ALWAYS: Final = {"otelcol_process_memory_rss": Series("resident memory, bytes")}

#: Jaeger's, with the first spans. Spans that its memory limiter refuses are in receiver_refused_spans: the limiter's
#: own counter has a different name in each version.
JAEGER_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": Series("spans accepted", ("receiver", "transport"), counter=True),
    "otelcol_receiver_refused_spans": Series("spans refused", ("receiver", "transport"), counter=True),
}

#: Jaeger's, absent until the first event since 2.20, so rules must treat absence as 0
JAEGER_WITH_TROUBLE: Final = {
    "otelcol_exporter_send_failed_spans": Series("spans that the storage did not accept", ("exporter",), counter=True),
}

#: Jaeger's, with the first query
JAEGER_WITH_QUERIES: Final = {
    "jaeger_storage_requests": Series(
        "queries; result is ok or err", ("kind", "name", "operation", "result", "role"), counter=True
    ),
}

JAEGER: Final = JAEGER_ALWAYS | JAEGER_WITH_SPANS | JAEGER_WITH_TROUBLE | JAEGER_WITH_QUERIES

#: Prometheus', for every target
PROMETHEUS_OF_TARGETS: Final = {
    "up": Series("1 if the last scrape succeeded, else 0"),
    "scrape_duration_seconds": Series("duration of a scrape"),
    "scrape_sample_limit": Series("maximum number of samples; with extra_scrape_metrics"),
    "scrape_samples_post_metric_relabeling": Series("samples that count towards the limit"),
    "scrape_samples_scraped": Series("samples of a scrape"),
    "scrape_timeout_seconds": Series("timeout of a scrape; with extra_scrape_metrics"),
}

#: Prometheus' own, from the start
PROMETHEUS_ALWAYS: Final = {
    "prometheus_config_last_reload_successful": Series("1 if the configuration could be read, else 0"),
    "prometheus_notifications_alertmanagers_discovered": Series("Alertmanagers to which it sends"),
    "prometheus_notifications_errors_total": Series(
        "alerts that an Alertmanager did not accept", ("alertmanager",), counter=True
    ),
    "prometheus_rule_evaluation_failures_total": Series(
        "rules that could not be evaluated", ("rule_group",), counter=True
    ),
    "prometheus_tsdb_head_samples_appended_total": Series("samples stored", ("type",), counter=True),
    "prometheus_tsdb_head_series": Series("series in memory"),
}

#: with the first alert that is pending or fires
PROMETHEUS_WITH_ALERTS: Final = {
    "ALERTS": Series("1 for each alert; alertstate is pending or firing", ("alertname", "alertstate", "severity")),
}

PROMETHEUS: Final = PROMETHEUS_OF_TARGETS | PROMETHEUS_ALWAYS | PROMETHEUS_WITH_ALERTS

#: from the start
ALERTMANAGER: Final = {
    "alertmanager_config_last_reload_successful": Series("1 if the configuration could be read, else 0"),
    "alertmanager_notifications_failed_total": Series(
        "notifications that a receiver did not accept", ("integration", "reason"), counter=True
    ),
}

#: all servers; a name that two of them share has the same labels in both
STACK: Final[Mapping[str, Series]] = JAEGER | COLLECTOR | PROMETHEUS | ALERTMANAGER
