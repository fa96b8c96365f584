"""Without an endpoint, spans stay in this process: bounded, without a thread and without log lines."""

import threading

from tests.threads import new_threads
from tests.tracing.conftest import Log, Open


def test_without_an_endpoint_finished_spans_are_kept_in_the_process(open_it: Open, log: Log) -> None:
    before = threading.enumerate()
    opened = open_it()
    opened.emit(3)
    assert opened.tracing.store is not None
    assert [span.name for span in opened.tracing.store.spans()] == ["span"] * 3
    assert opened.tracing.description == "kept in this process (2048 spans; no OTLP endpoint configured)"
    assert new_threads(before) == []
    assert log() == []


def test_only_the_newest_spans_are_kept(open_it: Open) -> None:
    opened = open_it(store_size=2)
    for name in ("a", "b", "c"):
        opened.emit(1, name)
    assert opened.tracing.store is not None
    assert [span.name for span in opened.tracing.store.spans()] == ["b", "c"]
    opened.tracing.store.clear()
    assert opened.tracing.store.spans() == ()


def test_an_unsampled_span_is_not_kept(open_it: Open) -> None:
    opened = open_it(sampler="always_off")
    opened.emit(1)
    assert opened.tracing.store is not None
    assert opened.tracing.store.spans() == ()


def test_exporter_none_also_keeps_spans_and_exports_nothing(open_it: Open) -> None:
    opened = open_it("http://127.0.0.1:9", exporter="none")
    opened.emit(1)
    assert opened.tracing.store is not None
    assert len(opened.tracing.store.spans()) == 1
    assert opened.tracing.description == "kept in this process (2048 spans; OTEL_TRACES_EXPORTER is none)"


def test_flush_returns_at_once(open_it: Open) -> None:
    opened = open_it()
    opened.emit(1)
    assert opened.tracing.flush(0.0)
