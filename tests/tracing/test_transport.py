"""One attempt, one answer: the receiver's behaviour decides what happens to a batch, over HTTP and gRPC alike."""

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count

import pytest

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.exporters import destination
from otel_fastperf.tracing.transport import Answer, Transport, Verdict, address
from tests.encoded import encoded, spans
from tests.otlp import (
    Behaviour,
    Receiver,
    accepted,
    hanging,
    redirected,
    rejected,
    seconds_of,
    throttled,
    too_large,
    unavailable,
)
from tests.serving import ROOT


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        yield receiver


@pytest.fixture
def http() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def transport_to(receiver: Receiver, **settings: object) -> Transport:
    group = {"base_endpoint": receiver.endpoint, "protocol": receiver.protocol} | settings
    return destination(TracesSettings.model_validate(group)).connect()


def send(receiver: Receiver, timeout: float = 5.0, **settings: object) -> Answer:
    transport = transport_to(receiver, **settings)
    try:
        return transport.send(encoded("a"), timeout)
    finally:
        transport.close()


def test_an_accepted_batch_arrives(receiver: Receiver) -> None:
    transport = transport_to(receiver)
    assert transport.send(encoded("a", "b"), 5.0) == Answer(Verdict.ACCEPTED)
    assert transport.send(encoded("c"), 5.0) == Answer(Verdict.ACCEPTED)
    transport.close()
    assert receiver.names == ["a", "b", "c"]


@pytest.mark.parametrize("behaviour", [unavailable(), throttled(), unavailable(retry_after=3)])
def test_a_retryable_answer_is_a_retry_after_one_attempt(receiver: Receiver, behaviour: Behaviour) -> None:
    receiver.answer = behaviour
    answer = send(receiver)
    assert answer.verdict is Verdict.RETRY
    assert answer.retry_after == behaviour.retry_after
    assert receiver.requests == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_any_other_answer_is_a_rejection(receiver: Receiver, status: int) -> None:
    receiver.answer = rejected(status)
    answer = send(receiver)
    assert answer.verdict is Verdict.REJECTED
    assert (f"HTTP {status}" if receiver.protocol != "grpc" else receiver.answer.grpc) in answer.reason
    assert receiver.requests == 1


def test_a_batch_refused_for_its_size_is_too_large(receiver: Receiver) -> None:
    """413; over gRPC RESOURCE_EXHAUSTED without RetryInfo, since a server that will recover says when to retry."""
    receiver.answer = too_large()
    answer = send(receiver)
    assert answer.verdict is Verdict.TOO_LARGE
    assert answer.reason.startswith("HTTP 413 " if receiver.protocol != "grpc" else "gRPC RESOURCE_EXHAUSTED ")


def test_a_message_larger_than_grpc_s_maximum_is_too_large() -> None:
    """The limit of a real gRPC server: 4 MiB."""
    with Receiver("grpc") as receiver:
        transport = transport_to(receiver)
        answer = transport.send(encoded("x" * 5_000_000), 10.0)
        transport.close()
    assert answer.verdict is Verdict.TOO_LARGE
    assert "message larger than max" in answer.reason


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


def test_the_timeout_does_not_depend_on_the_system_clock(http: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over gRPC the deadline is its core's, which has a clock of its own."""
    http.answer = hanging()
    now, hours = time.time(), count()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now - 3600 * next(hours))
        assert seconds_of(lambda: send(http, timeout=0.5)) < 5


def test_a_connection_closed_by_the_receiver_causes_no_failure(http: Receiver) -> None:
    transport = transport_to(http)
    assert transport.send(encoded("a"), 5.0).verdict is Verdict.ACCEPTED
    http.stop()
    http.start()
    assert transport.send(encoded("b"), 5.0).verdict is Verdict.ACCEPTED
    transport.close()
    assert http.names == ["a", "b"]


def test_partial_success_has_the_number_of_refused_spans(receiver: Receiver) -> None:
    receiver.answer = accepted(refuses=1)
    assert send(receiver) == Answer(Verdict.ACCEPTED, "no room", refused=1)


def test_a_closed_transport_answers_interrupted(receiver: Receiver) -> None:
    transport = transport_to(receiver)
    transport.close()
    assert transport.send(encoded("a"), 1.0).verdict is Verdict.INTERRUPTED


def test_headers_are_sent(receiver: Receiver) -> None:
    send(receiver, headers={"X-Api-Key": "s3cret"})
    assert receiver.headers[0]["x-api-key"] == "s3cret"


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_compression_follows_the_setting(receiver: Receiver, compression: str) -> None:
    assert send(receiver, compression=compression).verdict is Verdict.ACCEPTED
    if receiver.protocol != "grpc":
        assert receiver.headers[0].get("content-encoding", "none") == compression


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://user:password@collector:4318/v1/traces?api_key=secret#x", "http://collector:4318/v1/traces"),
        ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
    ],
)
def test_the_address_has_no_secrets(endpoint: str, shown: str) -> None:
    assert address(TracesSettings(endpoint=endpoint)) == shown


def test_export_over_http_loads_no_heavy_library(http: Receiver) -> None:
    """They cost memory; protobuf is loaded when a receiver refuses a part of a batch."""
    script = (
        "import sys; from tests.encoded import encoded; from otel_fastperf.tracing.exporters import destination;"
        "from otel_fastperf.settings import TracesSettings;"
        f"transport = destination(TracesSettings(base_endpoint={http.endpoint!r})).connect();"
        "print(transport.send(encoded('a'), 5.0).verdict.name);"
        "print(*sorted({'grpc', 'requests', 'urllib3', 'google.protobuf'} & sys.modules.keys()))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["ACCEPTED", ""]


def test_the_console_is_a_destination(capsys: pytest.CaptureFixture[str]) -> None:
    console = destination(TracesSettings(exporter="console"))
    batch = [console.encode(span) for span in spans("seen", "too")]
    assert console.connect().send(batch, 1.0) == Answer(Verdict.ACCEPTED)
    lines = capsys.readouterr().out
    assert '"name": "seen"' in lines
    assert '"name": "too"' in lines
