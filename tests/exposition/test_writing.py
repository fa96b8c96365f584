"""What is written without prometheus_client is what prometheus_client writes, byte by byte."""

import pytest

from otel_fastperf.exposition.negotiation import Format
from otel_fastperf.exposition.reading import read_metrics
from otel_fastperf.exposition.rendering import written_by_prometheus_client
from otel_fastperf.exposition.writing import can_write, write
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from tests.filled import filled


@pytest.mark.parametrize("form", [Format(), Format(openmetrics=True), Format(openmetrics=True, escaping="allow-utf-8")])
def test_every_family_is_written_as_prometheus_client_writes_it(form: Format) -> None:
    metrics = filled(Metrics())
    metrics.pool_max.child('a "b"\\\n').set(2.5e7)
    written = 0
    for series in read_metrics(metrics, Guard(print), bool, default_registry=False):
        if can_write(series, form):
            assert write(series, form, bool) == written_by_prometheus_client(series, form)
            written += 1
    assert written > 40


@pytest.mark.parametrize("escaping", ["dots", "values"])
def test_a_scheme_that_escapes_every_name_is_left_to_prometheus_client(escaping: str) -> None:
    families = read_metrics(filled(Metrics()), Guard(print), bool, default_registry=False)
    assert not any(can_write(series, Format(openmetrics=True, escaping=escaping)) for series in families)
