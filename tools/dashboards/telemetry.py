"""Telemetry's own health: what is lost on the way from the app through the collector to Jaeger and Prometheus."""

from typing import Final

from tools.dashboards.layout import Board
from tools.dashboards.panels import GREEN, NONE_SEEN, RED, Column, Query, Row, lines, numbers, ok_above, ok_below, rows
from tools.dashboards.promql import ANY_JOB, increase, own, rate, series, share, up

COLLECTOR: Final = 'job="otel-collector"'
JAEGER: Final = 'job="jaeger"'
PROMETHEUS: Final = 'job="prometheus"'

_SPANS: Final = "fastperf_spans_total"
_VERSIONS: Final = "version, fastapi, sqlalchemy, opentelemetry, server_span"
_DROPPED: Final = 'outcome=~"dropped_.*"'

_SUMMARY: Final = Row(
    "In short",
    [
        numbers(
            "Spans lost",
            "Share of the spans that the app dropped instead of exporting them. Requests are never harmed by it, but "
            "their traces have holes. Good: 0.",
            "percentunit",
            Query(
                share(rate(_SPANS, _DROPPED, per=("job",)), rate(_SPANS, per=("job",))),
                "{{job}}",
            ),
            width=6,
            limits=ok_below(0.0001, 0.01),
            decimals=2,
        ),
        numbers(
            "Errors inside telemetry",
            "Failures of the instrumentation in the time range; no request was harmed. Good: 0; the log has each one "
            "once.",
            "short",
            Query(
                f"{increase('fastperf_telemetry_errors_total', per=('job',))} or sum by (job) ({up()}) * 0",
                "{{job}}",
            ),
            width=6,
            limits=((None, GREEN), (1, RED)),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Observations without a series",
            "Observations in the time range that went to the overflow series, because a metric has more label sets "
            "than metrics.max_series. Good: 0.",
            "short",
            Query(increase("fastperf_metric_overflow_total", per=("job",)), "{{job}}"),
            width=6,
            limits=((None, GREEN), (1, RED)),
            decimals=0,
            instant=True,
        ),
        numbers(
            "Scrapes that worked",
            "Share of the scrapes of each service that were answered, over the time range. Good: 100 %.",
            "percentunit",
            Query(
                f"avg by (job) (avg_over_time({series('up')}[$__range]) and on (job) {series('fastperf_build_info')})",
                "{{job}}",
            ),
            width=6,
            limits=ok_above(0.9, 0.999),
            decimals=1,
            instant=True,
        ),
    ],
)

_APP: Final = Row(
    "In the app",
    [
        lines(
            "Spans by outcome",
            "Spans per second: exported, or dropped and why. dropped_queue_full: they come faster than they are "
            "taken; dropped_rejected: the collector refused them; dropped_exit: the process ended first. Good: "
            "exported alone.",
            "ops",
            Query(f"{rate(_SPANS, per=('outcome',))} > 0", "{{outcome}}"),
            stacked=True,
            colours={
                "exported": "green",
                "dropped_queue_full": "red",
                "dropped_rejected": "orange",
                "dropped_encoding": "purple",
                "dropped_exit": "yellow",
            },
        ),
        lines(
            "Spans in the queue",
            "Spans that wait for export in each process. Good: it falls back to near 0 every few seconds.",
            "short",
            Query(series("fastperf_spans_queued"), "{{job}} {{instance}}"),
        ),
        lines(
            "Errors by part",
            "Failures inside telemetry per second, by the part of it. Good: none.",
            "ops",
            Query(f"{rate('fastperf_telemetry_errors_total', per=('job', 'part'))} > 0", "{{job}} {{part}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Overflow by metric",
            "Observations per second that found no room for a series of their own. Good: none; else raise "
            "metrics.max_series, or find the label that never repeats.",
            "ops",
            Query(f"{rate('fastperf_metric_overflow_total', per=('metric',))} > 0", "{{metric}}"),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Duration of a scrape",
            "How long /metrics takes. It runs on the app's loop or in a thread: keep it short. Good: below 0.1 s.",
            "s",
            Query(own(series("scrape_duration_seconds")), "{{job}} {{instance}}"),
        ),
        lines(
            "Samples of a scrape",
            "How many samples /metrics has. It grows with routes; sample_limit in prometheus.yml ends the scrape. "
            "Good: level.",
            "short",
            Query(own(series("scrape_samples_scraped")), "{{job}} {{instance}}"),
        ),
        rows(
            "What runs where",
            "Versions in each process. During a deploy there are two; a week later there should be one.",
            {f"count by (job, instance, {_VERSIONS}) ({series('fastperf_build_info')})": Column("processes", width=90)},
            {
                "job": Column("service"),
                "instance": Column("instance"),
                "version": Column("otel-fastperf"),
                "fastapi": Column("FastAPI"),
                "sqlalchemy": Column("SQLAlchemy"),
                "opentelemetry": Column("OpenTelemetry"),
                "server_span": Column("SERVER span by"),
            },
            order="processes",
            height=6,
        ),
    ],
)

_PER_EXPORTER: Final = ("exporter",)


def _collector(metric: str, *matchers: str, per: tuple[str, ...] = ()) -> str:
    return rate(metric, *matchers, per=per, of=COLLECTOR)


_COLLECTOR: Final = Row(
    "In the collector",
    [
        lines(
            "Received and refused",
            "Spans per second that the collector took from the apps, and that it refused: apps send those again until "
            "their queue is full. Good: none refused.",
            "ops",
            Query(_collector("otelcol_receiver_accepted_spans"), "received"),
            Query(_collector("otelcol_receiver_refused_spans"), "refused"),
            colours={"received": "green", "refused": "red"},
        ),
        lines(
            "Sent and failed",
            "Spans per second by exporter: sent on, failed for good, or never queued because the queue was full. The "
            "last two are lost. Good: sent alone, as many as received less what is filtered.",
            "ops",
            Query(_collector("otelcol_exporter_sent_spans", per=_PER_EXPORTER), "sent {{exporter}}"),
            Query(_collector("otelcol_exporter_send_failed_spans", per=_PER_EXPORTER), "failed {{exporter}}"),
            Query(_collector("otelcol_exporter_enqueue_failed_spans", per=_PER_EXPORTER), "no room {{exporter}}"),
        ),
        lines(
            "Queue, as a part of its room",
            "How full each exporter's queue is. Good: near 0; one that fills up means that what stands behind it is "
            "slow or away.",
            "percentunit",
            Query(
                f"max by (exporter) ({series('otelcol_exporter_queue_size', of=COLLECTOR)}) / "
                f"max by (exporter) ({series('otelcol_exporter_queue_capacity', of=COLLECTOR)})",
                "{{exporter}}",
            ),
            maximum=1,
            limits=ok_below(0.5, 0.9),
        ),
        lines(
            "Left out and turned away",
            "Spans per second that the filter drops, being probes, and that the memory limiter refuses, so that apps "
            "send them again. Good: none turned away.",
            "ops",
            Query(_collector("otelcol_processor_filter_spans_filtered", per=("filter",)), "left out by {{filter}}"),
            Query(f"{_collector('otelcol_processor_memory_limiter_refused_spans')} > 0", "turned away"),
            colours={"turned away": "red"},
            no_value=NONE_SEEN,
        ),
        lines(
            "Memory of the collector",
            "Resident memory. The memory limiter refuses spans before the container's limit is met. Good: level.",
            "bytes",
            Query(series("otelcol_process_memory_rss", of=COLLECTOR), "{{instance}}"),
        ),
        lines(
            "CPU of the collector",
            "Cores in use. Good: well below what it may have.",
            "none",
            Query(_collector("otelcol_process_cpu_seconds", per=("instance",)), "{{instance}}"),
        ),
    ],
)

_STORES: Final = Row(
    "In Jaeger and Prometheus",
    [
        lines(
            "Spans that Jaeger received",
            "Spans per second that Jaeger took, and refused. Good: as many as the collector sent, none refused.",
            "ops",
            Query(rate("otelcol_receiver_accepted_spans", of=JAEGER), "received"),
            Query(rate("otelcol_receiver_refused_spans", of=JAEGER), "refused"),
            colours={"received": "green", "refused": "red"},
        ),
        lines(
            "Memory of Jaeger",
            "Resident memory. In memory storage it grows until max_traces are held, then stays. Good: level.",
            "bytes",
            Query(series("otelcol_process_memory_rss", of=JAEGER), "{{instance}}"),
        ),
        lines(
            "Targets that are up",
            "1: the last scrape of the target worked. Good: all at 1.",
            "short",
            Query(f"min by (job) ({series('up', of=ANY_JOB)})", "{{job}}"),
            maximum=1,
            fill=0,
        ),
        lines(
            "Series in Prometheus",
            "Series that Prometheus holds in memory: about 4 kB each. Good: level; a slope is a label that never "
            "repeats.",
            "short",
            Query(series("prometheus_tsdb_head_series", of=PROMETHEUS), "{{instance}}"),
        ),
        lines(
            "Samples taken in",
            "Samples per second that Prometheus stores. Good: level; it grows with targets and series.",
            "ops",
            Query(
                rate("prometheus_tsdb_head_samples_appended_total", per=("instance",), of=PROMETHEUS), "{{instance}}"
            ),
        ),
        lines(
            "Rules that failed",
            "Evaluations of rules per second that failed: an alert that cannot be evaluated cannot fire. Good: none.",
            "ops",
            Query(
                f"{rate('prometheus_rule_evaluation_failures_total', per=('rule_group',), of=PROMETHEUS)} > 0",
                "{{rule_group}}",
            ),
            bars=True,
            stacked=True,
            no_value=NONE_SEEN,
        ),
    ],
)

BOARD: Final = Board(
    uid="fastperf-telemetry",
    title="Fastperf / Telemetry",
    description="What is lost on the way from the apps through the collector to Jaeger and Prometheus.",
    rows=(_SUMMARY, _APP, _COLLECTOR, _STORES),
)
