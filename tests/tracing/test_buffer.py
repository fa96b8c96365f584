"""Every span in the buffer is accounted for: exported, dropped for a reason, or still there."""

import sys
import threading

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.metrics import Metrics
from otel_fastperf.tracing.buffer import Buffer, Outcome


def spans(number: int) -> list[ReadableSpan]:
    return [ReadableSpan(str(index), resource=Resource.get_empty()) for index in range(number)]


def counted(metrics: Metrics, outcome: Outcome) -> float:
    return metrics.registry.get_sample_value("fastperf_spans_total", {"outcome": outcome}) or 0.0


def fill(buffer: Buffer, number: int) -> None:
    for span in spans(number):
        buffer.put(span)


def test_a_full_buffer_drops_the_oldest() -> None:
    metrics = Metrics()
    buffer = Buffer(3, metrics)
    fill(buffer, 5)
    assert [span.name for span in buffer.take(10)] == ["2", "3", "4"]
    assert counted(metrics, Outcome.QUEUE_FULL) == 2


def test_spans_put_back_go_to_the_head_and_the_oldest_is_dropped() -> None:
    metrics = Metrics()
    buffer = Buffer(3, metrics)
    fill(buffer, 2)
    batch = buffer.take(2)
    for span in spans(2):
        buffer.put(span)
    buffer.put_back(batch)
    assert [span.name for span in buffer.take(10)] == ["1", "0", "1"]
    assert counted(metrics, Outcome.QUEUE_FULL) == 1


def test_a_closed_buffer_counts_waiting_in_flight_and_late_spans() -> None:
    metrics = Metrics()
    buffer = Buffer(10, metrics)
    fill(buffer, 5)
    batch = buffer.take(2)
    assert buffer.close() == 5
    buffer.settle(1, Outcome.EXPORTED)
    buffer.put_back(batch)
    fill(buffer, 1)
    assert buffer.queued == 0
    assert counted(metrics, Outcome.EXIT) == 6
    assert counted(metrics, Outcome.EXPORTED) == 0


def test_nothing_is_lost_or_counted_twice_with_many_threads() -> None:
    """Eight threads put, one takes, settles and puts back, and close() comes in between."""
    metrics = Metrics()
    buffer = Buffer(100, metrics)
    started, each = threading.Barrier(9), 3000

    def put() -> None:
        batch = spans(each)
        started.wait()
        for span in batch:
            buffer.put(span)

    def take() -> None:
        started.wait()
        for turn in range(400):
            batch = buffer.take(64)
            if turn % 3 == 0:
                buffer.put_back(batch)
            else:
                buffer.settle(len(batch), Outcome.EXPORTED)
        buffer.close()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=put) for _ in range(8)] + [threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert buffer.queued == 0
    assert sum(counted(metrics, outcome) for outcome in Outcome) == 8 * each
    assert buffer.lost == 8 * each - counted(metrics, Outcome.EXPORTED)
