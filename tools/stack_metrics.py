"""The stack's own metrics that rules, runbooks and dashboards query: {name, as it stands on the page: what it says}.

Names of collectors change with their versions, and a rule on a name that is gone never fires. So rules and dashboards
take them from here, and tests/deploy asserts that the real servers show them. Those of the collector and of Jaeger are
without `_total` and units, since the configurations say so (the three `without_…` keys).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Series:
    """What a metric says; its labels, but for `job` and `instance`, which Prometheus adds."""

    says: str
    labels: tuple[str, ...] = ()
    counter: bool = False


#: there from the start
COLLECTOR_ALWAYS: Final = {
    "otelcol_exporter_queue_capacity": Series(
        "what the queue holds at most; bytes for traces, requests for span metrics", ("exporter", "data_type")
    ),
    "otelcol_exporter_queue_size": Series(
        "what the queue holds; in the same unit as its capacity", ("exporter", "data_type")
    ),
    "otelcol_process_cpu_seconds": Series("CPU time", counter=True),
    "otelcol_process_memory_rss": Series("resident memory, bytes"),
}

#: with the first spans
COLLECTOR_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": Series("spans taken", ("receiver", "transport"), counter=True),
    "otelcol_receiver_refused_spans": Series(
        "spans sent back to the app, which tries again", ("receiver", "transport"), counter=True
    ),
    "otelcol_exporter_sent_spans": Series("spans the back end has taken", ("exporter",), counter=True),
}

#: with the first span that was a probe
COLLECTOR_WITH_PROBES: Final = {
    "otelcol_processor_filter_spans_filtered": Series(
        "spans of health, metrics and docs routes", ("filter",), counter=True
    ),
}

#: absent until it happens, so rules must take absence for none
COLLECTOR_WITH_TROUBLE: Final = {
    "otelcol_exporter_send_failed_spans": Series(
        "spans given up: the back end refused them, or was gone too long", ("exporter",), counter=True
    ),
    "otelcol_exporter_enqueue_failed_spans": Series(
        "spans for which the queue had no room", ("exporter",), counter=True
    ),
    "otelcol_processor_memory_limiter_refused_spans": Series(
        "spans refused for want of memory", ("processor",), counter=True
    ),
}

#: with the overlay tail-sampling.yaml, which names it
COLLECTOR_TAIL_SAMPLING: Final = {
    "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early": Series(
        "traces decided before their time", counter=True
    ),
}

COLLECTOR: Final = (
    COLLECTOR_ALWAYS | COLLECTOR_WITH_SPANS | COLLECTOR_WITH_PROBES | COLLECTOR_WITH_TROUBLE | COLLECTOR_TAIL_SAMPLING
)

#: Jaeger's, there from the start
JAEGER_ALWAYS: Final = {"otelcol_process_memory_rss": Series("resident memory, bytes")}

#: Jaeger's, with the first spans. What its memory limiter refuses is in receiver_refused_spans: the limiter's own
#: counter has another name in each of the versions.
JAEGER_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": Series("spans taken", ("receiver", "transport"), counter=True),
    "otelcol_receiver_refused_spans": Series("spans sent back", ("receiver", "transport"), counter=True),
    "otelcol_exporter_send_failed_spans": Series("spans the storage did not take", ("exporter",), counter=True),
}

#: Jaeger's, with the first look-up
JAEGER_WITH_QUERIES: Final = {
    "jaeger_storage_requests": Series(
        "look-ups; result is ok or err", ("kind", "name", "operation", "result", "role"), counter=True
    ),
}

JAEGER: Final = JAEGER_ALWAYS | JAEGER_WITH_SPANS | JAEGER_WITH_QUERIES

#: what Prometheus adds to every target
PROMETHEUS_OF_TARGETS: Final = {
    "up": Series("1 where the last scrape went well, else 0"),
    "scrape_duration_seconds": Series("how long a scrape took"),
    "scrape_sample_limit": Series("samples a scrape may have; with extra_scrape_metrics"),
    "scrape_samples_post_metric_relabeling": Series("samples of a scrape, as they count for the limit"),
    "scrape_samples_scraped": Series("samples of a scrape"),
    "scrape_timeout_seconds": Series("how long a scrape may take; with extra_scrape_metrics"),
}

#: what Prometheus says of itself, there from the start
PROMETHEUS_ALWAYS: Final = {
    "prometheus_config_last_reload_successful": Series("1 where the configuration could be read, else 0"),
    "prometheus_notifications_alertmanagers_discovered": Series("Alertmanagers it sends to"),
    "prometheus_notifications_errors_total": Series(
        "alerts that an Alertmanager did not take", ("alertmanager",), counter=True
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

#: there from the start
ALERTMANAGER: Final = {
    "alertmanager_config_last_reload_successful": Series("1 where the configuration could be read, else 0"),
    "alertmanager_notifications_failed_total": Series(
        "notifications that a receiver did not take", ("integration", "reason"), counter=True
    ),
}

#: of all servers; a name that two of them have has the same labels with both
STACK: Final[Mapping[str, Series]] = JAEGER | COLLECTOR | PROMETHEUS | ALERTMANAGER
