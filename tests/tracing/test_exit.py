"""A process exits with its spans delivered, or in time without them, and quietly in both cases."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.otlp import Receiver, accepted, hanging, unavailable
from tests.serving import ROOT

#: Allowance for start and end of the interpreter on a loaded machine.
START = 4.0

#: Opens tracing, ends spans, and exits without closing it: the rest is done by atexit.
SCRIPT = """
import sys, time
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import Settings
from otel_fastperf.tracing import open_tracing

opening = open_tracing(Settings(), Metrics(), Guard(print))
tracing = opening.__enter__()
for _ in range(int(sys.argv[1])):
    tracing.tracer.start_span("span").end()
time.sleep(float(sys.argv[2]))
print("ready", time.time(), flush=True)
"""


@dataclass
class Ended:
    seconds: float
    errors: str
    code: int


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        yield receiver


def run(receiver: Receiver, *, spans: int, seconds: float = 0.0, script: str = SCRIPT) -> Ended:
    """Run the script against the receiver; `seconds` of the result start at the script's last line."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": receiver.protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "GRPC_VERBOSITY": "ERROR",
    }
    command = [sys.executable, "-c", script, str(spans), str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    ready = [line for line in done.stdout.splitlines() if line.startswith("ready")]
    assert ready, done.stderr
    return Ended(time.time() - float(ready[0].split()[1]), done.stderr, done.returncode)


def test_with_the_collector_up_everything_is_delivered_and_nothing_logged(receiver: Receiver) -> None:
    ended = run(receiver, spans=3000)
    assert len({span.span_id for span in receiver.spans}) == 3000
    assert (ended.errors, ended.code) == ("", 0)


@pytest.mark.parametrize(
    ("kind", "idle"),
    [("refused", 0.0), ("503", 0.0), ("hangs", 0.0), ("hangs", 0.5), ("slow", 0.5)],
    ids=["refused", "503", "hangs", "hangs in the middle of an attempt", "slow in the middle of an attempt"],
)
def test_with_a_dead_collector_the_process_exits_in_time_with_two_lines_at_most(
    receiver: Receiver, kind: str, idle: float
) -> None:
    """Even with a full queue, and without a traceback, a crash, or a line from a library."""
    if kind == "refused":
        receiver.stop()
    else:
        receiver.answer = {"hangs": hanging(), "503": unavailable(), "slow": accepted(delay=5)}[kind]
    ended = run(receiver, spans=10_000, seconds=idle)
    assert ended.code == 0
    assert ended.seconds < 2.0 + START
    lines = ended.errors.splitlines()
    assert 1 <= len(lines) <= 2, ended.errors
    assert all(line.startswith("otel_fastperf: ") for line in lines)
    assert "spans did not reach" in lines[-1]


def test_spans_of_an_earlier_exit_handler_are_delivered_too(receiver: Receiver) -> None:
    """The spans end in an atexit handler that runs before ours."""
    last = "import atexit\natexit.register(lambda: tracing.tracer.start_span('last').end())\n"
    ended = run(receiver, spans=1, script=SCRIPT + last)
    assert receiver.names == ["span", "last"]
    assert ended.errors == ""


def test_a_first_span_during_exit_causes_no_failure(receiver: Receiver) -> None:
    """Newer Pythons start no thread during exit. The span is delivered or counted."""
    last = "import atexit\natexit.register(lambda: tracing.tracer.start_span('last').end())\n"
    ended = run(receiver, spans=0, script=SCRIPT + last)
    assert ended.code == 0
    assert ended.seconds < 2.0 + START
    assert "Traceback" not in ended.errors or "otel_fastperf: sender failed and was skipped" in ended.errors


def test_a_process_that_exits_by_an_exception_delivers_its_spans(receiver: Receiver) -> None:
    ended = run(receiver, spans=5, script=SCRIPT + "raise SystemExit(3)\n")
    assert len(receiver.spans) == 5
    assert ended.code == 3
