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
    "Summary",
    [
        numbers(
            "Spans lost",
            "Share of spans that the app dropped instead of exporting them. Requests are not affected, but their "
            "traces are incomplete. Good: 0.",
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
            "Failures of the instrumentation in the time range. Requests are not affected; the log has each failure"
            " once. Good: 0.",
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
            "Successful scrapes",
            "Share of scrapes that each service answered in the time range. Good: 100 %.",
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
            "Spans per second: exported, or dropped and why. dropped_queue_full: they arrive faster than they are "
            "exported; dropped_rejected: the collector refused them; dropped_exit: the process ended first. Good: "
            "only exported.",
            "ops",
            Query(f"{rate(_SPANS, per=('outcome',))} > 0", "{{outcome}}"),
            stacked=True,
            colours={
                "exported": "green",
                "dropped_queue_full": "red",
                "dropped_rejected": "dark-red",
                "dropped_too_large": "super-light-red",
                "dropped_encoding": "semi-dark-red",
                "dropped_exit": "light-red",
            },
        ),
        lines(
            "Spans in the queue",
            "Spans waiting for export in each process. Good: falls to near 0 every few seconds.",
            "short",
            Query(series("fastperf_spans_queued"), "{{job}} {{instance}}"),
        ),
        lines(
            "Not delivered for",
            "Time since the receiver has not taken spans, which wait and are sent again. Good: 0. Otherwise the "
            "collector is down, or OTEL_EXPORTER_OTLP_ENDPOINT is wrong.",
            "s",
            Query(series("fastperf_export_failing_seconds"), "{{job}} {{instance}}"),
        ),
        lines(
            "Errors by part",
            "Failures inside telemetry per second, by part. Good: none.",
            "ops",
            Query(f"{rate('fastperf_telemetry_errors_total', per=('job', 'part'))} > 0", "{{job}} {{part}}"),
            bars=True,
            stacked=True,
            failing=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Overflow by metric and label",
            "Observations per second that went to an overflow series, by the label that has too many values. "
            "Good: none. Otherwise raise metrics.max_series, or choose the values of this label from a fixed set.",
            "ops",
            Query(f"{rate('fastperf_metric_overflow_total', per=('metric', 'label'))} > 0", "{{metric}} {{label}}"),
            bars=True,
            stacked=True,
            failing=True,
            no_value=NONE_SEEN,
        ),
        lines(
            "Duration of a scrape",
            "How long /metrics takes. It competes with the app for CPU time. Good: below 0.1 s.",
            "s",
            Query(own(series("scrape_duration_seconds")), "{{job}} {{instance}}"),
        ),
        lines(
            "Samples of a scrape",
            "Number of samples of /metrics. It grows with routes; above sample_limit in prometheus.yml, Prometheus "
            "drops the scrape. Good: stable.",
            "short",
            Query(own(series("scrape_samples_scraped")), "{{job}} {{instance}}"),
        ),
        rows(
            "Versions",
            "Versions in each process. During a deploy there may be two; later there should be one.",
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
            "Spans per second that the collector accepted from apps, and that it refused. Apps send refused spans "
            "again until their queue is full. Good: none refused.",
            "ops",
            Query(_collector("otelcol_receiver_accepted_spans"), "received"),
            Query(_collector("otelcol_receiver_refused_spans"), "refused"),
            colours={"received": "green", "refused": "red"},
        ),
        lines(
            "Sent and failed",
            "Spans per second by exporter: sent, failed, or not queued because the queue was full. The last two are"
            " lost. Good: only sent, as many as received minus those filtered.",
            "ops",
            Query(_collector("otelcol_exporter_sent_spans", per=_PER_EXPORTER), "sent {{exporter}}"),
            Query(_collector("otelcol_exporter_send_failed_spans", per=_PER_EXPORTER), "failed {{exporter}}"),
            Query(_collector("otelcol_exporter_enqueue_failed_spans", per=_PER_EXPORTER), "queue full {{exporter}}"),
            colours={"/^sent /": "green", "/^failed /": "red", "/^queue full /": "orange"},
        ),
        lines(
            "Queue usage",
            "How full each exporter's queue is. Good: near 0. A queue that fills up means that the back end is slow"
            " or down.",
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
            "Filtered and refused",
            "Spans per second that the filter drops because they are probes, and that the memory limiter refuses, "
            "so that apps send them again. Good: none refused.",
            "ops",
            Query(_collector("otelcol_processor_filter_spans_filtered", per=("filter",)), "filtered by {{filter}}"),
            Query(f"{_collector('otelcol_processor_memory_limiter_refused_spans')} > 0", "refused"),
            colours={"refused": "red"},
            no_value=NONE_SEEN,
        ),
        lines(
            "Memory of the collector",
            "Resident memory. The memory limiter refuses spans before memory reaches the container's limit. Good: "
            "stable.",
            "bytes",
            Query(series("otelcol_process_memory_rss", of=COLLECTOR), "{{instance}}"),
        ),
        lines(
            "CPU of the collector",
            "Cores in use. Good: well below the container's limit.",
            "none",
            Query(_collector("otelcol_process_cpu_seconds", per=("instance",)), "{{instance}}"),
        ),
    ],
)

_STORES: Final = Row(
    "In Jaeger and Prometheus",
    [
        lines(
            "Spans received by Jaeger",
            "Spans per second that Jaeger accepted and refused. Good: as many accepted as the collector sent, none "
            "refused.",
            "ops",
            Query(rate("otelcol_receiver_accepted_spans", of=JAEGER), "received"),
            Query(rate("otelcol_receiver_refused_spans", of=JAEGER), "refused"),
            colours={"received": "green", "refused": "red"},
        ),
        lines(
            "Memory of Jaeger",
            "Resident memory. With storage in memory it grows until max_traces is reached. Good: stable after that.",
            "bytes",
            Query(series("otelcol_process_memory_rss", of=JAEGER), "{{instance}}"),
        ),
        lines(
            "Targets up",
            "1 if the last scrape of the target succeeded. Good: all at 1.",
            "short",
            Query(f"min by (job) ({series('up', of=ANY_JOB)})", "{{job}}"),
            maximum=1,
            fill=0,
        ),
        lines(
            "Series in Prometheus",
            "Series in Prometheus' memory, about 4 kB each. Good: stable. Steady growth comes from a label whose "
            "values never repeat.",
            "short",
            Query(series("prometheus_tsdb_head_series", of=PROMETHEUS), "{{instance}}"),
        ),
        lines(
            "Samples stored",
            "Samples per second that Prometheus stores; grows with targets and series. Good: stable.",
            "ops",
            Query(
                rate("prometheus_tsdb_head_samples_appended_total", per=("instance",), of=PROMETHEUS), "{{instance}}"
            ),
        ),
        lines(
            "Failed rules",
            "Failed evaluations of rules per second. An alert that cannot be evaluated cannot fire. Good: none.",
            "ops",
            Query(
                f"{rate('prometheus_rule_evaluation_failures_total', per=('rule_group',), of=PROMETHEUS)} > 0",
                "{{rule_group}}",
            ),
            bars=True,
            stacked=True,
            failing=True,
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
