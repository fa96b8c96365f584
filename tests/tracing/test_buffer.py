"""Every span in the buffer is accounted for: exported, dropped for a reason, or still there."""

import sys
import threading
from collections.abc import Callable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.metrics import Metrics
from otel_fastperf.tracing.buffer import Buffer, Outcome
from otel_fastperf.tracing.otlp_encoder import EncodedSpan

#: bytes: no bound
ROOM = 2**30


def spans(number: int) -> list[ReadableSpan]:
    return [ReadableSpan(str(index), resource=Resource.get_empty()) for index in range(number)]


def counted(metrics: Metrics, outcome: Outcome) -> float:
    return metrics.registry.get_sample_value("fastperf_spans_total", {"outcome": outcome}) or 0.0


def fill(buffer: Buffer, number: int) -> None:
    for span in spans(number):
        buffer.put(span)


def encode(buffer: Buffer, number: int = 10_000, size: int = 0) -> None:
    """Encode up to `number` spans, each as its name, padded to `size` bytes."""
    taken = buffer.take_to_encode(number)
    data = [span.name.encode().ljust(size) for span in taken]
    buffer.put_encoded([EncodedSpan(span.resource, None, each) for span, each in zip(taken, data, strict=True)], 0)


def names(batch: list[EncodedSpan]) -> list[str]:
    return [span.data.decode().strip() for span in batch]


def test_a_full_buffer_drops_the_oldest() -> None:
    metrics = Metrics()
    buffer = Buffer(ROOM, 3, metrics)
    for _ in range(2):
        fill(buffer, 2)
        encode(buffer)
    assert names(buffer.take(10, ROOM)) == ["1", "0", "1"]
    assert counted(metrics, Outcome.QUEUE_FULL) == 1


def test_spans_that_nobody_encodes_are_bounded_too() -> None:
    metrics = Metrics()
    buffer = Buffer(ROOM, 3, metrics)
    fill(buffer, 5)
    assert buffer.queued == 3
    encode(buffer)
    assert names(buffer.take(10, ROOM)) == ["2", "3", "4"]
    assert counted(metrics, Outcome.QUEUE_FULL) == 2
    unbounded = Buffer(ROOM, None, metrics)
    fill(unbounded, 9000)
    assert unbounded.queued == 8192


def test_the_bound_in_bytes_includes_what_python_adds() -> None:
    metrics = Metrics()
    buffer = Buffer(100_000, None, metrics)
    fill(buffer, 500)
    encode(buffer, size=936)
    assert buffer.weight == 100_000
    assert len(buffer) == 100
    assert counted(metrics, Outcome.QUEUE_FULL) == 400


def test_a_batch_is_bounded_in_spans_and_in_bytes_but_for_a_single_span() -> None:
    buffer = Buffer(ROOM, None, Metrics())
    fill(buffer, 10)
    encode(buffer, 5, size=1000)
    encode(buffer, 1, size=100_000)
    encode(buffer, 4, size=1000)
    assert names(buffer.take(2, ROOM)) == ["0", "1"]
    assert names(buffer.take(100, 2500)) == ["2", "3"]
    assert names(buffer.take(100, 50_000)) == ["4"]
    assert names(buffer.take(100, 50_000)) == ["5"]
    assert names(buffer.take(100, 50_000)) == ["6", "7", "8", "9"]
    assert buffer.weight == 0


def test_spans_put_back_go_to_the_head_and_the_oldest_is_dropped() -> None:
    metrics = Metrics()
    buffer = Buffer(ROOM, 3, metrics)
    fill(buffer, 2)
    encode(buffer)
    batch = buffer.take(2, ROOM)
    fill(buffer, 2)
    encode(buffer)
    buffer.put_back(batch)
    assert names(buffer.take(10, ROOM)) == ["1", "0", "1"]
    assert counted(metrics, Outcome.QUEUE_FULL) == 1


def test_each_span_keeps_its_resource_and_scope() -> None:
    """They are stored once for all spans that share them."""
    resources = [Resource({"n": number}) for number in range(3)]
    buffer = Buffer(ROOM, None, Metrics())
    for number in range(3000):
        buffer.put(ReadableSpan(str(number), resource=resources[number % 3]))
    encode(buffer, 2000)
    batch = buffer.take(1000, ROOM)
    encode(buffer)
    buffer.put_back(batch)
    again = buffer.take(5000, ROOM)
    assert names(again) == [str(number) for number in range(3000)]
    assert all(span.resource is resources[number % 3] for number, span in enumerate(again))


def test_a_closed_buffer_counts_waiting_in_flight_and_late_spans() -> None:
    metrics = Metrics()
    buffer = Buffer(ROOM, 10, metrics)
    fill(buffer, 5)
    encode(buffer, 3)
    batch = buffer.take(2, ROOM)
    being_encoded = buffer.take_to_encode(1)
    assert buffer.queued == 5
    assert buffer.close() == 5
    buffer.settle(1, Outcome.EXPORTED)
    buffer.put_back(batch)
    buffer.put_encoded([EncodedSpan(being_encoded[0].resource, None, b"")], 0)
    fill(buffer, 1)
    assert buffer.queued == 0
    assert counted(metrics, Outcome.EXIT) == 6
    assert counted(metrics, Outcome.EXPORTED) == 0


def run_together(*calls: Callable[[], None]) -> None:
    """Each on a thread of its own; they take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_nothing_is_lost_or_counted_twice_with_many_threads() -> None:
    """Eight threads put, one encodes; one takes, settles and puts back; and close() comes in between."""
    metrics = Metrics()
    buffer = Buffer(20_000, 100, metrics)
    started, each = threading.Barrier(10), 3000
    ended = threading.Event()

    def put() -> None:
        batch = spans(each)
        started.wait()
        for span in batch:
            buffer.put(span)

    def pack() -> None:
        started.wait()
        while not ended.is_set():
            spans = buffer.take_to_encode(32)
            good = [EncodedSpan(span.resource, None, b"x" * 300) for span in spans[1:]]
            buffer.put_encoded(good, len(spans) - len(good))

    def take() -> None:
        started.wait()
        for turn in range(400):
            batch = buffer.take(64, 10_000)
            if turn % 3 == 0:
                buffer.put_back(batch)
            else:
                buffer.settle(len(batch), Outcome.EXPORTED)
        buffer.close()
        ended.set()

    run_together(*[put] * 8, pack, take)
    assert buffer.queued == 0
    assert sum(counted(metrics, outcome) for outcome in Outcome) == 8 * each
    assert buffer.lost == 8 * each - counted(metrics, Outcome.EXPORTED)
