"""Where the time of a request went, as it is worked out on a thread of its own."""

import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.instrumentation.spent_time import budget_of
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.signals import Block
from tests.conftest import Probe


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns_often")
def test_the_loop_may_be_blocked_while_a_request_that_has_ended_is_examined(probe: Probe) -> None:
    delays, done = probe.signals.delays, threading.Event()
    record = RequestRecord(probe.signals, {"type": "http"}, INVALID_SPAN, 0.0)
    record.ended = 1e6

    def block() -> None:
        at = 0.0
        while not done.is_set():
            at += 0.001
            delays.blocks.append(Block(at, at + 0.001, None, None))

    loop = threading.Thread(target=block)
    loop.start()
    try:
        for _ in range(300):
            assert sum(budget_of(record, probe.signals).segments.values()) == pytest.approx(1e6)
    finally:
        done.set()
        loop.join()
