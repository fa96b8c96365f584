"""The stack's own metrics that rules and dashboards may query: {name, as it stands on the page: what it says}.

Names of collectors change with their versions, and a rule on a name that is gone never fires. So rules and dashboards
take them from here, and tests/deploy asserts that the real servers show them. All are without `_total` and units, since
the configurations say so (the three `without_…` keys).
"""

from typing import Final

#: there from the start
COLLECTOR_ALWAYS: Final = {
    "otelcol_exporter_queue_capacity": "what the queue holds at most; bytes for traces, requests for span metrics",
    "otelcol_exporter_queue_size": "what the queue holds; in the same unit as its capacity",
    "otelcol_process_cpu_seconds": "CPU time, counter",
    "otelcol_process_memory_rss": "resident memory, bytes",
    "otelcol_process_runtime_heap_alloc_bytes": "Go heap, bytes",
    "otelcol_process_uptime": "seconds since the start, counter",
}

#: with the first spans
COLLECTOR_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": "spans taken, counter; labels receiver, transport",
    "otelcol_receiver_refused_spans": "spans sent back to the app, which tries again, counter",
    "otelcol_receiver_failed_spans": "spans that failed within, counter",
    "otelcol_exporter_sent_spans": "spans the back end has taken, counter; label exporter",
    "otelcol_exporter_in_flight_requests": "requests under way, those that wait for a retry too; label exporter",
    "otelcol_processor_incoming_items": "spans or points into a processor, counter; labels processor, otel_signal",
    "otelcol_processor_outgoing_items": "spans or points out of it, counter; labels processor, otel_signal",
    "otelcol_processor_memory_limiter_accepted_spans": "spans let through, counter",
}

#: with the first span that was a probe
COLLECTOR_WITH_PROBES: Final = {
    "otelcol_processor_filter_spans_filtered": "spans of health, metrics and docs routes, counter; label filter",
}

#: absent until it happens, so rules must take absence for none
COLLECTOR_WITH_TROUBLE: Final = {
    "otelcol_exporter_send_failed_spans": "spans given up: the back end refused them, or was gone too long, counter",
    "otelcol_exporter_enqueue_failed_spans": "spans for which the queue had no room, counter; label exporter",
    "otelcol_processor_memory_limiter_refused_spans": "spans refused for want of memory, counter",
}

#: with the overlay tail-sampling.yaml
COLLECTOR_TAIL_SAMPLING: Final = {
    "otelcol_processor_tail_sampling_count_traces_sampled": "decisions, counter; labels policy, decision",
    "otelcol_processor_tail_sampling_global_count_traces_sampled": "traces decided, counter; label decision",
    "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early": "traces decided before their time, counter",
    "otelcol_processor_tail_sampling_sampling_traces_on_memory": "traces held",
}

COLLECTOR: Final = (
    COLLECTOR_ALWAYS | COLLECTOR_WITH_SPANS | COLLECTOR_WITH_PROBES | COLLECTOR_WITH_TROUBLE | COLLECTOR_TAIL_SAMPLING
)

#: Jaeger's, there from the start
JAEGER_ALWAYS: Final = {
    "otelcol_process_cpu_seconds": "CPU time, counter",
    "otelcol_process_memory_rss": "resident memory, bytes",
    "otelcol_process_uptime": "seconds since the start, counter",
}

#: Jaeger's, with the first spans. What its memory limiter refuses is in receiver_refused_spans: the limiter's own
#: counter has another name in each of the versions.
JAEGER_WITH_SPANS: Final = {
    "otelcol_receiver_accepted_spans": "spans taken, counter; labels receiver, transport",
    "otelcol_receiver_refused_spans": "spans sent back, counter",
    "otelcol_exporter_sent_spans": "spans written; label exporter is jaeger_storage_exporter, counter",
    "otelcol_exporter_send_failed_spans": "spans the storage did not take, counter",
}

#: Jaeger's, with the first look-up
JAEGER_WITH_QUERIES: Final = {
    "jaeger_storage_requests": "look-ups, counter; labels operation, result (ok, err), role, kind",
    "jaeger_storage_latency_bucket": "seconds of look-ups, though its bounds are those of milliseconds; as above",
}

JAEGER: Final = JAEGER_ALWAYS | JAEGER_WITH_SPANS | JAEGER_WITH_QUERIES
