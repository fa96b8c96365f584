"""Metrics by OTLP: the counters of `/metrics`, pushed to a collector under OpenTelemetry's names.

points      a reading of the registry as the SDK's `MetricsData`
pusher      the thread that reads and pushes
"""
