"""One attempt, one answer: the receiver's behaviour decides what happens to a batch, over HTTP and gRPC alike.

These tests also guard our use of the official exporters: they fail if a version lacks the place to observe the call.
"""

import time
from collections.abc import Iterator
from itertools import count

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.exporters import transport_builder
from otel_fastperf.tracing.transport import Answer, Transport, Verdict, address
from tests.otlp import (
    Behaviour,
    Receiver,
    accepted,
    hanging,
    redirected,
    rejected,
    seconds_of,
    throttled,
    unavailable,
)


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        yield receiver


@pytest.fixture
def http() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def spans(*names: str) -> list[ReadableSpan]:
    tracer = TracerProvider().get_tracer("test")
    made = [tracer.start_span(name) for name in names]
    for span in made:
        span.end()
    return [span for span in made if isinstance(span, ReadableSpan)]


def transport_to(receiver: Receiver, **settings: object) -> Transport:
    group = {"base_endpoint": receiver.endpoint, "protocol": receiver.protocol} | settings
    return transport_builder(TracesSettings.model_validate(group))()


def send(receiver: Receiver, timeout: float = 5.0, **settings: object) -> Answer:
    transport = transport_to(receiver, **settings)
    try:
        return transport.send(spans("a"), timeout)
    finally:
        transport.close()


def test_an_accepted_batch_arrives(receiver: Receiver) -> None:
    transport = transport_to(receiver)
    assert transport.send(spans("a", "b"), 5.0) == Answer(Verdict.ACCEPTED)
    assert transport.send(spans("c"), 5.0) == Answer(Verdict.ACCEPTED)
    transport.close()
    assert receiver.names == ["a", "b", "c"]


@pytest.mark.parametrize("behaviour", [unavailable(), throttled(), unavailable(retry_after=3)])
def test_a_retryable_answer_is_a_retry_after_one_attempt(receiver: Receiver, behaviour: Behaviour) -> None:
    receiver.answer = behaviour
    answer = send(receiver)
    assert answer.verdict is Verdict.RETRY
    assert answer.retry_after == behaviour.retry_after
    assert receiver.requests == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500])
def test_any_other_answer_is_a_rejection(receiver: Receiver, status: int) -> None:
    receiver.answer = rejected(status)
    answer = send(receiver)
    assert answer.verdict is Verdict.REJECTED
    assert (f"HTTP {status}" if receiver.protocol != "grpc" else receiver.answer.grpc) in answer.reason
    assert receiver.requests == 1


def test_grpc_resource_exhausted_without_retry_info_is_a_rejection() -> None:
    """In OTLP, only a server that says when to retry will recover."""
    with Receiver("grpc", answer=throttled(None)) as receiver:
        assert send(receiver).verdict is Verdict.REJECTED


def test_a_redirect_is_not_a_success(http: Receiver) -> None:
    http.answer = redirected("http://127.0.0.1:9/v1/traces")
    answer = send(http)
    assert (answer.verdict, answer.reason) == (Verdict.REJECTED, "HTTP 301 Moved Permanently")


def test_a_refused_connection_is_a_retry_with_a_reason(receiver: Receiver) -> None:
    receiver.stop()
    answer = send(receiver)
    assert answer.verdict is Verdict.RETRY
    assert "efused" in answer.reason


def test_an_unknown_host_is_a_retry(receiver: Receiver) -> None:
    answer = send(receiver, base_endpoint="http://no-such-host.invalid:4318")
    assert answer.verdict is Verdict.RETRY


def test_no_answer_in_time_is_a_retry(receiver: Receiver) -> None:
    receiver.answer = hanging()
    assert seconds_of(lambda: send(receiver, timeout=0.3)) < 5
    assert send(receiver, timeout=0.3).verdict is Verdict.RETRY


def test_the_timeout_does_not_depend_on_the_system_clock(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters compute their deadline with `time.time()`; a clock that jumps back must not matter."""
    receiver.answer = unavailable()
    now, hours = time.time(), count()

    def jumping() -> float:
        return now - 3600 * next(hours)

    with monkeypatch.context() as patch:
        if receiver.protocol == "grpc":
            # only the exporter's clock: gRPC's core has its own, which would change with the system clock
            patch.setattr("opentelemetry.exporter.otlp.proto.grpc.exporter.time", jumping)
        else:
            patch.setattr(time, "time", jumping)
        assert seconds_of(lambda: send(receiver, timeout=2.0)) < 5
    assert receiver.requests == 1
    assert next(hours) > 1, "the exporter has not asked for the time"


def test_a_connection_closed_by_the_receiver_causes_no_failure(http: Receiver) -> None:
    transport = transport_to(http)
    assert transport.send(spans("a"), 5.0).verdict is Verdict.ACCEPTED
    http.stop()
    http.start()
    assert transport.send(spans("b"), 5.0).verdict is Verdict.ACCEPTED
    transport.close()
    assert http.names == ["a", "b"]


def test_a_span_that_cannot_be_encoded_never_reaches_the_network(receiver: Receiver) -> None:
    transport = transport_to(receiver)
    assert transport.send(spans("bad \ud800"), 5.0).verdict is Verdict.UNENCODABLE
    assert transport.send(spans("good"), 5.0).verdict is Verdict.ACCEPTED
    transport.close()
    assert receiver.requests == 1


def test_partial_success_has_the_number_of_refused_spans(receiver: Receiver) -> None:
    receiver.answer = accepted(refuses=1)
    assert send(receiver) == Answer(Verdict.ACCEPTED, "no room", refused=1)


def test_a_closed_transport_answers_interrupted(receiver: Receiver) -> None:
    transport = transport_to(receiver)
    transport.close()
    assert transport.send(spans("a"), 1.0).verdict is Verdict.INTERRUPTED


def test_headers_are_sent(receiver: Receiver) -> None:
    send(receiver, headers={"X-Api-Key": "s3cret"})
    assert receiver.headers[0]["x-api-key"] == "s3cret"


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_compression_follows_the_setting(receiver: Receiver, compression: str) -> None:
    assert send(receiver, compression=compression).verdict is Verdict.ACCEPTED
    if receiver.protocol != "grpc":
        assert receiver.headers[0].get("content-encoding", "none") == compression


def test_a_header_that_cannot_be_sent_is_a_rejection_whose_reason_keeps_the_secret(receiver: Receiver) -> None:
    answer = send(receiver, headers={"api-key": "s3cret\nwith a line break"})
    assert answer.verdict is Verdict.REJECTED
    assert "s3cret" not in answer.reason


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://user:password@collector:4318/v1/traces?api_key=secret#x", "http://collector:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_the_address_has_no_secrets(endpoint: str, shown: str) -> None:
    assert address(TracesSettings(endpoint=endpoint)) == shown


def test_the_console_is_a_transport(capsys: pytest.CaptureFixture[str]) -> None:
    transport = transport_builder(TracesSettings(exporter="console"))()
    assert transport.send(spans("seen"), 1.0) == Answer(Verdict.ACCEPTED)
    assert '"name": "seen"' in capsys.readouterr().out
