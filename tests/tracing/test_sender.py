"""Delivery: spans arrive, outages lose nothing that fits the queue, and every span is accounted for."""

import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.exporters import destination
from otel_fastperf.tracing.otlp_encoder import EncodedSpan
from otel_fastperf.tracing.sender import Sender
from otel_fastperf.tracing.transport import Answer, Verdict
from otel_fastperf.tracing.worker import Worker
from tests.otlp import (
    Behaviour,
    Receiver,
    accepted,
    accepted_up_to,
    hanging,
    rejected,
    seconds_of,
    throttled,
    too_large,
    unavailable,
)
from tests.serving import wait_until
from tests.tracing.conftest import Log, Open

#: a name that cannot be encoded
NO_TEXT: Any = 7


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        yield receiver


@pytest.fixture
def http() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_spans_are_exported_without_a_flush_and_counted(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    opened.emit(3)
    assert len(receiver.wait_for(3)) == 3
    wait_until(lambda: opened.outcomes == {"exported": 3})
    assert opened.queued == 0


def test_a_span_arrives_unchanged(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    tracer = opened.tracing.tracer
    with tracer.start_as_current_span("GET /", kind=trace.SpanKind.SERVER) as parent:
        parent.set_attribute("http.route", "/")
        with tracer.start_as_current_span("work") as child:
            child.add_event("happened", {"n": 1, "list": ["a", "b"]})
            child.set_status(trace.StatusCode.ERROR, "broken")
    work, get = receiver.wait_for(2)
    assert (get.name, get.kind, get.parent_id, get.attributes) == ("GET /", "SERVER", "", {"http.route": "/"})
    assert (work.trace_id, work.parent_id) == (get.trace_id, get.span_id)
    assert (work.status, work.status_message) == ("ERROR", "broken")
    assert [(event.name, event.attributes) for event in work.events] == [("happened", {"n": 1, "list": ["a", "b"]})]


def test_full_batches_are_sent_at_once_and_the_rest_after_the_delay(open_it: Open, http: Receiver) -> None:
    opened = open_it(http.endpoint, delay_ms=60_000, batch_size=10)
    opened.emit(25)
    http.wait_for(20)
    assert http.requests == 2
    opened.close()
    assert len(http.spans) == 25


def test_flush_delivers_all_spans_ended_before_it(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000)
    for turn in range(1, 6):
        opened.emit(7)
        assert opened.tracing.flush(60.0)
        assert len(receiver.spans) == 7 * turn


def test_a_flush_delivers_the_first_span_whose_thread_has_not_got_to_start_the_sender(
    open_it: Open, http: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_it(http.endpoint, delay_ms=60_000)
    start, put, flushed = Worker._start, threading.Event(), threading.Event()

    def interrupted(worker: Worker) -> None:
        if threading.current_thread() is emitting:
            put.set()
            flushed.wait(60.0)
        start(worker)

    monkeypatch.setattr(Worker, "_start", interrupted)
    emitting = threading.Thread(target=opened.emit, args=(1,))
    emitting.start()
    assert put.wait(60.0)
    assert opened.tracing.flush(60.0)
    flushed.set()
    emitting.join()
    assert len(http.spans) == 1


def test_close_delivers_everything_while_the_collector_is_up(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000, exit_timeout=20)
    opened.emit(5000)
    opened.close()
    assert len({span.span_id for span in receiver.spans}) == 5000
    assert opened.outcomes == {"exported": 5000}


@pytest.mark.parametrize("kind", ["refused", "503", "429"])
def test_an_outage_loses_no_span_while_the_queue_has_room(open_it: Open, receiver: Receiver, kind: str) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    opened.emit(1)
    wait_until(lambda: opened.outcomes == {"exported": 1})
    if kind == "refused":
        receiver.stop()
    else:
        receiver.answer = unavailable() if kind == "503" else throttled(1)
    opened.emit(100)
    assert not opened.tracing.flush(5.0)
    assert opened.queued == 100
    receiver.answer = accepted()
    if kind == "refused":
        receiver.start()
    receiver.wait_for(101)
    wait_until(lambda: opened.outcomes == {"exported": 101})
    assert len({span.span_id for span in receiver.spans}) == 101


def test_the_time_for_which_spans_do_not_arrive_is_known_until_they_do(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    opened.emit(1)
    wait_until(lambda: opened.outcomes == {"exported": 1})
    assert opened.failing_seconds == 0
    receiver.answer = unavailable()
    opened.emit(1)
    wait_until(lambda: opened.failing_seconds)
    since = opened.failing_seconds
    wait_until(lambda: opened.failing_seconds > since + 0.2)
    receiver.answer = accepted()
    assert opened.tracing.flush(60.0)
    assert opened.failing_seconds == 0


def test_a_long_outage_keeps_the_newest_spans_and_counts_the_others(open_it: Open, http: Receiver) -> None:
    http.answer = unavailable()
    opened = open_it(http.endpoint, queue_size=50, batch_size=10)
    for index in range(170):
        opened.emit(1, str(index))
        if index % 60 == 0:
            opened.tracing.flush(5.0)
    opened.tracing.flush(5.0)
    assert opened.outcomes == {"dropped_queue_full": 120}
    assert opened.queued == 50
    http.answer = accepted()
    http.wait_for(50)
    wait_until(lambda: opened.outcomes == {"dropped_queue_full": 120, "exported": 50})
    assert sorted(int(name) for name in http.names) == list(range(120, 170))


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_rejected_batch_is_dropped_counted_and_not_sent_again(open_it: Open, receiver: Receiver, status: int) -> None:
    receiver.answer = rejected(status)
    # nothing is sent but by `flush`, so all four spans are in one batch
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000)
    opened.emit(4)
    assert opened.tracing.flush(10.0)
    assert opened.outcomes == {"dropped_rejected": 4}
    assert receiver.requests == 1
    receiver.answer = accepted()
    opened.emit(1)
    assert opened.tracing.flush(10.0)
    assert opened.outcomes == {"dropped_rejected": 4, "exported": 1}


def test_spans_refused_in_an_accepted_batch_are_counted_as_rejected(open_it: Open, receiver: Receiver) -> None:
    receiver.answer = accepted(refuses=3)
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    opened.emit(10)
    assert opened.tracing.flush(10.0)
    assert opened.outcomes == {"dropped_rejected": 3, "exported": 7}


def test_only_the_span_that_cannot_be_encoded_is_lost(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000)
    for index in range(100):
        opened.emit(1, NO_TEXT if index in {13, 14, 77} else f"good {index}")
    assert opened.tracing.flush(60.0)
    assert opened.outcomes == {"exported": 97, "dropped_encoding": 3}
    assert len(set(receiver.names)) == 97


def test_only_the_span_that_is_too_large_is_lost(open_it: Open, receiver: Receiver, log: Log) -> None:
    """The batch is halved until that span stands alone; the others arrive, in order."""
    receiver.answer = accepted_up_to(60_000)
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000)
    for index in range(200):
        opened.emit(1, "x" * 100_000 if index == 123 else str(index))
    assert opened.tracing.flush(60.0)
    assert opened.outcomes == {"exported": 199, "dropped_too_large": 1}
    assert receiver.names == [str(index) for index in range(200) if index != 123]
    assert receiver.requests <= 2 * 8 + 1
    (line,) = log()
    assert line.startswith("WARNING otel_fastperf: a span of 100")
    assert "bytes is too large for http://127.0.0.1:" in line


def test_a_receiver_that_takes_no_request_of_any_size_gets_few(open_it: Open, receiver: Receiver) -> None:
    """As one behind a proxy with a wrong limit."""
    receiver.answer = too_large()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000)
    opened.emit(1000)
    assert opened.tracing.flush(30.0)
    assert opened.outcomes == {"dropped_too_large": 1000}
    assert receiver.requests <= 100 + 20


def test_an_outage_during_a_halved_batch_loses_no_other_span(open_it: Open, http: Receiver) -> None:
    """Halves that were sent are not sent again; the others are put back in order."""
    http.answer = accepted_up_to(60_000)
    opened = open_it(http.endpoint, delay_ms=60_000)
    for index in range(16):
        opened.emit(1, "x" * 100_000 if index == 11 else str(index))
    # the first half arrives, the next request meets the outage
    http.turn = lambda number: unavailable() if number == 3 else None
    assert not opened.tracing.flush(10.0)
    assert http.names == [str(index) for index in range(8)]
    assert opened.queued == 8
    assert opened.tracing.flush(10.0)
    assert http.names == [str(index) for index in range(16) if index != 11]
    assert opened.outcomes == {"exported": 15, "dropped_too_large": 1}


def test_a_long_outage_keeps_what_fits_the_memory(open_it: Open, http: Receiver) -> None:
    http.answer = unavailable()
    opened = open_it(http.endpoint, queue_bytes=200_000, delay_ms=60_000, batch_size=10_000)
    for index in range(400):
        opened.emit(1, f"{index:4}" + "x" * 800)
        if index % 100 == 99:
            opened.tracing.flush(5.0)
    kept = opened.queued
    assert opened.outcomes == {"dropped_queue_full": 400 - kept}
    assert 200 <= kept <= 240
    http.answer = accepted()
    assert opened.tracing.flush(60.0)
    assert [int(name[:4]) for name in http.names] == list(range(400 - kept, 400))
    assert opened.outcomes == {"dropped_queue_full": 400 - kept, "exported": kept}


def test_a_full_batch_of_bytes_is_sent_at_once(open_it: Open, http: Receiver) -> None:
    """And none is larger than 1 MiB."""
    opened = open_it(http.endpoint, delay_ms=60_000)
    http.answer = accepted_up_to(2**20)
    for _ in range(30):
        opened.emit(1, "x" * 100_000)
    http.wait_for(20)
    wait_until(lambda: opened.outcomes == {"exported": 20})
    opened.close()
    assert opened.outcomes == {"exported": 30}


def test_spans_are_encoded_while_the_collector_hangs(open_it: Open, receiver: Receiver) -> None:
    """So what waits are bytes, and a span that ended long ago keeps nothing of its request alive."""
    receiver.answer = hanging()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, exit_timeout=0.1)
    opened.emit(1)
    receiver.wait_for_requests(1)
    opened.emit(500)
    buffer = opened.tracing._sender._worker.buffer  # type: ignore[union-attr]
    wait_until(lambda: buffer.unencoded == 0)
    assert len(buffer) == 500
    assert opened.queued == 501


def test_spans_that_come_without_a_pause_do_not_keep_the_sender_from_sending(open_it: Open, http: Receiver) -> None:
    opened = open_it(http.endpoint, delay_ms=60_000, batch_size=100_000)
    ended = threading.Event()

    def emit() -> None:
        while not ended.is_set():
            opened.emit(10)

    threads = [threading.Thread(target=emit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert opened.tracing.flush(60.0)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert http.requests >= 1


def test_idle_connections_are_kept(open_it: Open, http: Receiver) -> None:
    opened = open_it(http.endpoint)
    for turn in range(1, 4):
        opened.emit(1)
        http.wait_for(turn)
        time.sleep(0.3)
    assert (http.requests, http.connections) == (3, 1)


BEHAVIOURS = (
    accepted(),
    unavailable(),
    rejected(),
    accepted(delay=0.02),
    throttled(1),
    accepted(refuses=1),
    accepted_up_to(1000),
)


def test_every_span_is_accounted_for_whatever_happens(open_it: Open, receiver: Receiver) -> None:
    """Emitted == exported + dropped + queued, with eight threads, a small queue and a misbehaving collector."""
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, queue_size=200, batch_size=32, exit_timeout=0.5)
    ended = threading.Event()

    def misbehave() -> None:
        while not ended.wait(0.05):
            receiver.answer = BEHAVIOURS[int(time.monotonic() * 20) % len(BEHAVIOURS)]
            opened.tracing.flush(0.02)

    def emit() -> None:
        for index in range(500):
            opened.emit(1, NO_TEXT if index % 97 == 0 else "good")
            if index % 25 == 0:
                time.sleep(0.03)

    threads = [threading.Thread(target=emit) for _ in range(8)]
    chaos = threading.Thread(target=misbehave)
    for thread in [*threads, chaos]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    chaos.join()
    receiver.answer = unavailable()
    opened.tracing.flush(5.0)
    assert opened.accounted == 4000
    opened.close()
    assert opened.queued == 0
    assert sum(opened.outcomes.values()) == 4000
    assert len({span.span_id for span in receiver.spans}) >= opened.outcomes["exported"]


@pytest.mark.parametrize("behaviour", [hanging(), unavailable(), None], ids=["hangs", "503", "refused"])
def test_a_dead_collector_does_not_delay_close_and_the_rest_is_counted(
    open_it: Open, receiver: Receiver, behaviour: Behaviour | None
) -> None:
    """The queue is full, and an attempt in progress would take 10 s."""
    if behaviour is None:
        receiver.stop()
    else:
        receiver.answer = behaviour
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, queue_size=2000, exit_timeout=1.0)
    opened.emit(2500)
    if behaviour is not None:
        receiver.wait_for_requests(1)
    assert seconds_of(opened.close) < 1.0 + 1.5
    assert sum(opened.outcomes.values()) == 2500
    assert opened.outcomes["dropped_exit"] >= 2000
    assert opened.queued == 0


@pytest.mark.parametrize("kind", ["503", "refused"])
def test_two_failures_in_a_row_end_the_wait_at_exit(open_it: Open, receiver: Receiver, kind: str) -> None:
    """A developer without a collector must not wait at each Ctrl-C."""
    if kind == "refused":
        receiver.stop()
    receiver.answer = unavailable()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000, exit_timeout=30)
    opened.emit(3)
    assert seconds_of(opened.close) < 10
    assert opened.outcomes == {"dropped_exit": 3}


def test_an_exit_timeout_of_zero_gives_up_at_once(open_it: Open, http: Receiver) -> None:
    http.answer = hanging()
    opened = open_it(http.endpoint, exit_timeout=0)
    opened.emit(3)
    assert seconds_of(opened.close) < 1.5
    assert opened.outcomes == {"dropped_exit": 3}


def test_ending_a_span_never_waits(open_it: Open, receiver: Receiver) -> None:
    """Even with a hanging collector or a full queue."""
    receiver.answer = hanging()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, queue_size=100, exit_timeout=0.1)
    opened.emit(1)
    receiver.wait_for_requests(1)
    longest = max(seconds_of(lambda: opened.emit(1)) for _ in range(3000))
    assert longest < 0.25


def test_a_slow_collector_gets_every_span(open_it: Open, http: Receiver) -> None:
    http.answer = accepted(delay=0.3)
    opened = open_it(http.endpoint)
    opened.emit(50)
    assert len(http.wait_for(50)) == 50


def test_an_attempt_ends_after_the_timeout_of_the_settings(open_it: Open, receiver: Receiver) -> None:
    receiver.answer = hanging()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, timeout=0.3)
    opened.emit(1)
    receiver.wait_for_requests(2)
    receiver.answer = accepted()
    receiver.wait_for(1)
    wait_until(lambda: opened.outcomes == {"exported": 1})


def test_export_creates_no_spans_itself(open_it: Open, http: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP client may be instrumented; the test reads the switch that all instrumentations obey."""
    from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled, is_instrumentation_enabled

    seen: list[tuple[bool, bool]] = []
    ask = HTTPConnection.request

    def watched(self: HTTPConnection, *arguments: Any, **options: Any) -> None:
        seen.append((is_instrumentation_enabled(), is_http_instrumentation_enabled()))
        ask(self, *arguments, **options)

    monkeypatch.setattr(HTTPConnection, "request", watched)
    opened = open_it(http.endpoint)
    opened.emit(1)
    http.wait_for(1)
    assert seen == [(False, False)]


def test_a_certificate_that_does_not_exist_yet_loses_no_span(
    open_it: Open, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/certificate.pem")
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    opened = open_it("https://127.0.0.1:9", exit_timeout=0.1)
    opened.emit(1)
    assert not opened.tracing.flush(10.0)
    assert opened.queued == 1
    assert len(log()) == 1


class Faulty:
    """A transport that raises in every method, except on the third attempt to send."""

    attempts = 0

    def send(self, spans: Sequence[EncodedSpan], timeout: float) -> Answer:
        Faulty.attempts += 1
        if Faulty.attempts < 3:
            message = "send"
            raise RuntimeError(message)
        return Answer(Verdict.ACCEPTED)

    def prepare_fork(self, *, idle: bool) -> None:
        raise RuntimeError

    def close(self) -> None:
        message = "close"
        raise RuntimeError(message)


def test_a_failing_exporter_is_counted_and_tried_again() -> None:
    metrics, failures = Metrics(), list[str]()
    settings = TracesSettings(exporter="otlp", delay_ms=10)
    sender = Sender(settings, destination(settings)._replace(connect=Faulty), metrics, Guard(failures.append))
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(sender)
    tracer.get_tracer("test").start_span("span").end()
    assert not sender.flush(10.0)
    assert not sender.flush(10.0)
    assert sender.flush(10.0)
    assert failures == ["exporter", "exporter"]
    sender.close(1.0)
    assert failures == ["exporter"] * 3
    assert metrics.registry.get_sample_value("fastperf_spans_total", {"outcome": "exported"}) == 1


# log lines


def test_a_collector_that_is_down_is_logged_once_and_again_when_it_is_back(
    open_it: Open, receiver: Receiver, log: Log
) -> None:
    receiver.stop()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, queue_size=5)
    for _ in range(4):
        opened.emit(3)
        opened.tracing.flush(5.0)
    receiver.start()
    receiver.wait_for(5)
    wait_until(lambda: len(log()) > 1)
    opened.emit(1)
    opened.tracing.flush(5.0)
    down, back = log()
    assert down.startswith("WARNING otel_fastperf: spans do not reach http://127.0.0.1:")
    assert "efused): the newest 5 are kept for later; requests are not affected." in down
    assert "Remedy: start the collector there, or correct OTEL_EXPORTER_OTLP_ENDPOINT" in down
    assert back.startswith("INFO otel_fastperf: spans reach http://127.0.0.1:")
    assert back.endswith("; 7 were lost")


def test_a_rejecting_collector_is_logged_once(open_it: Open, receiver: Receiver, log: Log) -> None:
    receiver.answer = rejected(401)
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, headers={"authorization": "Bearer s3cret"})
    for _ in range(4):
        opened.emit(3)
        opened.tracing.flush(5.0)
    (line,) = log()
    assert line.startswith("WARNING otel_fastperf: spans do not reach http://127.0.0.1:")
    assert "401" in line or "UNAUTHENTICATED" in line
    assert "they are dropped" in line
    assert "OTEL_EXPORTER_OTLP_HEADERS" in line
    assert "s3cret" not in line


def test_a_hanging_collector_is_logged_once(open_it: Open, receiver: Receiver, log: Log) -> None:
    receiver.answer = hanging()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, timeout=0.2, exit_timeout=0.1)
    for _ in range(3):
        opened.emit(1)
        opened.tracing.flush(5.0)
    assert len(log()) == 1


def test_a_collector_that_is_too_slow_is_logged_once(open_it: Open, http: Receiver, log: Log) -> None:
    http.answer = accepted(delay=0.05)
    opened = open_it(http.endpoint, queue_size=20, batch_size=10)
    deadline = time.monotonic() + 20
    while not log() and time.monotonic() < deadline:
        opened.emit(50)
        time.sleep(0.02)
    (line,) = log()
    assert "it takes them too slowly" in line
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in line


def test_a_span_that_cannot_be_encoded_is_logged_once(open_it: Open, receiver: Receiver, log: Log) -> None:
    opened = open_it(receiver.endpoint, protocol=receiver.protocol)
    for _ in range(3):
        opened.emit(2, NO_TEXT)
        opened.tracing.flush(5.0)
    (line,) = log()
    assert line.startswith("WARNING otel_fastperf: span 7 cannot be encoded")


def test_spans_lost_at_exit_are_logged_in_one_line(open_it: Open, receiver: Receiver, log: Log) -> None:
    receiver.stop()
    opened = open_it(receiver.endpoint, protocol=receiver.protocol, delay_ms=60_000, exit_timeout=0.5)
    opened.emit(3)
    opened.close()
    down, end = log()
    assert "do not reach" in down
    assert end.startswith("WARNING otel_fastperf: 3 spans did not reach http://127.0.0.1:")
    assert "within 0.5 s at exit (" in end
    assert end.endswith(") and are lost")


def test_the_same_libraries_can_log_when_the_app_uses_them(open_it: Open, http: Receiver, log: Log) -> None:
    import logging

    opened = open_it(http.endpoint)
    logging.getLogger("urllib3.connectionpool").warning("the user's own")
    assert log() == ["WARNING the user's own"]
    opened.close()
