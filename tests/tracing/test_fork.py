"""After a fork each process exports its own spans over its own sockets, even if the fork interrupts an export."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.otlp import Receiver, hanging
from tests.serving import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")

#: A parent exports continuously and forks; each child exports three spans and ends. Prints how they ended.
SCRIPT = """
import json, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12+: forking with threads
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import Settings
from otel_fastperf.tracing import open_tracing

forks, busy = int(sys.argv[1]), sys.argv[2] == "busy"
failures, metrics = [], Metrics()
with open_tracing(Settings(), metrics, Guard(failures.append)) as tracing:
    ended, emitted = threading.Event(), 0

    def emit():
        global emitted
        while not ended.wait(0.001):
            for _ in range(5):
                tracing.tracer.start_span("parent").end()
                emitted += 1

    def child():
        for _ in range(3):
            tracing.tracer.start_span("child").end()
        os._exit(0 if tracing.flush(15 if sys.argv[3] == "up" else 0.5) else 7)

    threads = [threading.Thread(target=emit) for _ in range(2 if busy else 0)]
    for thread in threads:
        thread.start()
    tracing.tracer.start_span("parent").end()
    emitted += 1
    tracing.flush(5 if sys.argv[3] == "up" else 0.5)
    slowest, children = 0.0, []
    for _ in range(forks):
        tracing.tracer.start_span("parent").end()
        emitted += 1
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            child()
        slowest = max(slowest, time.monotonic() - started)
        children.append(pid)
        time.sleep(0.03)
    ended.set()
    for thread in threads:
        thread.join()
    statuses = []
    deadline = time.monotonic() + 30
    while children and time.monotonic() < deadline:
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                children.remove(pid)
                statuses.append(os.waitstatus_to_exitcode(status))
        time.sleep(0.01)
    for pid in children:
        os.kill(pid, 9)
    tracing.flush(20 if sys.argv[3] == "up" else 0.1)
value = lambda outcome: metrics.registry.get_sample_value("fastperf_spans_total", {"outcome": outcome})
print(json.dumps({"hung": len(children), "statuses": statuses, "slowest": slowest, "failures": failures,
                  "pid": os.getpid(), "emitted": emitted, "exported": value("exported")}))
"""


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with Receiver(request.param) as receiver:
        yield receiver


def run(receiver: Receiver, forks: int, *, busy: bool, state: str = "up") -> dict[str, Any]:
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": receiver.protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
        "OTEL_FASTPERF_TRACES_EXIT_TIMEOUT": "10" if state == "up" else "0.5",
    }
    command = [sys.executable, "-c", SCRIPT, str(forks), "busy" if busy else "idle", state]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "gRPC" not in done.stderr  # its core logs if it could not prepare for a fork
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("busy", [True, False], ids=["while exporting", "while idle"])
def test_every_process_exports_its_own_spans(receiver: Receiver, busy: bool) -> None:
    result = run(receiver, 20, busy=busy)
    assert (result["hung"], result["statuses"], result["failures"]) == (0, [0] * 20, [])
    assert receiver.corrupt == []
    # OTLP delivers at least once: on a slow machine a fork may cut off a call that has arrived, which is then repeated
    spans = list({span.span_id: span for span in receiver.spans}.values())
    assert sum(span.name == "child" for span in receiver.spans) == 20 * 3
    children = [span for span in spans if span.name == "child"]
    parents = [span for span in spans if span.name == "parent"]
    assert len(children) == 20 * 3
    assert len(parents) == result["emitted"] == result["exported"]
    assert {span.resource["process.pid"] for span in parents} == {result["pid"]}
    assert len({span.resource["process.pid"] for span in children} - {result["pid"]}) == 20
    assert len({span.resource["service.instance.id"] for span in spans}) == 21


def test_a_hanging_collector_does_not_delay_a_fork(receiver: Receiver) -> None:
    receiver.answer = hanging()
    result = run(receiver, 2, busy=False, state="hangs")
    assert result["hung"] == 0
    assert result["slowest"] < 3.0
