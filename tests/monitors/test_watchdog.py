"""Blocks of the event loop, on real servers with both event loops: causes, requests, spans and findings."""

import asyncio
import gc
import hashlib
import importlib
import inspect
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, format_trace_id
from pydantic import TypeAdapter
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from starlette.middleware.base import BaseHTTPMiddleware

from demo.burning import calibrated
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed
from otel_fastperf.findings import Finding
from otel_fastperf.monitors import watchdog as watchdog_module
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.monitors.watchdog import monitor_blocked_loop
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.settings import LoopSettings, MemorySettings
from tests.conftest import Probe
from tests.instrumentation.test_requests import observing
from tests.monitors.conftest import Run
from tests.serving import ROOT, Served, serve, wait_until
from tests.threads import new_threads

Until = Callable[[Callable[[], object]], Awaitable[None]]

#: threshold of a block in these tests, in seconds: a busy machine may delay any thread by 50 ms
SETTINGS = LoopSettings(blocked=0.15)
BLOCKED = 0.4


def watched(probe: Probe, settings: LoopSettings = SETTINGS) -> FastAPI:
    """An app with a watchdog for its event loop; `serving` observes its requests."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.loop = asyncio.get_running_loop()
        async with monitor_gc(MemorySettings(), probe.signals), monitor_blocked_loop(settings, probe.signals):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/ping")
    async def ping() -> str:
        return "pong"

    return app


Start = Callable[[FastAPI], Served]


@pytest.fixture(params=["asyncio", "uvloop"])
def serving(request: pytest.FixtureRequest, probe: Probe) -> Iterator[Start]:
    """Serve an app on one of the event loops, and observe its requests."""
    with ExitStack() as stack:

        def start(app: FastAPI) -> Served:
            stack.enter_context(observing(app, probe))
            served = stack.enter_context(serve(app, loop=request.param))
            # a timer that is due after the first beat
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.2), app.state.loop).result()
            return served

        yield start


def blocked_spans(probe: Probe) -> list[ReadableSpan]:
    return [span for span in probe.spans() if span.name == "event loop blocked"]


def the_block_span(probe: Probe) -> ReadableSpan:
    """The only span of a block that code caused; a busy machine may add others."""
    wait_until(lambda: blocks_by_code(probe), what="a span of the block")
    (span,) = blocks_by_code(probe)
    return span


def blocks_by_code(probe: Probe) -> list[ReadableSpan]:
    return [span for span in blocked_spans(probe) if attribute(span, "fastperf.blocked.cause") != "descheduled"]


def findings_by_code(probe: Probe) -> list[Finding]:
    return [finding for finding in probe.findings() if finding.evidence.get("cause") != "descheduled"]


def the_finding(probe: Probe) -> Finding:
    def found() -> list[Finding]:
        return [finding for finding in findings_by_code(probe) if finding.kind == "blocking_call"]

    wait_until(found, what="a finding")
    (finding,) = found()
    return finding


def attribute(span: ReadableSpan, name: str) -> Any:
    assert span.attributes is not None
    return span.attributes[name]


def server_span(probe: Probe) -> ReadableSpan:
    wait_until(lambda: [span for span in probe.spans() if span.kind is SpanKind.SERVER], what="a SERVER span")
    (span,) = [span for span in probe.spans() if span.kind is SpanKind.SERVER]
    return span


def line_of(function: Callable[..., Any], code: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if code in line)


def blocked_count(probe: Probe, cause: str, route: str) -> float | None:
    method = "GET" if route else ""
    return probe.value(
        "fastperf_event_loop_blocked_seconds_count", cause=cause, http_request_method=method, http_route=route
    )


# The cause of a block


def wait_for_the_bank() -> float:
    started = time.time()
    time.sleep(BLOCKED)
    return started


def wait_for_a_socket() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(BLOCKED)
        try:
            here.recv(1)
        except TimeoutError:
            return


def compute() -> int:
    number, deadline = 0, time.thread_time() + BLOCKED
    while time.thread_time() < deadline:
        number += 1
    return number


@cache
def numbers_to_add() -> int:
    """How many take `BLOCKED` seconds on this machine."""
    return calibrated(lambda numbers: sum(range(numbers)), BLOCKED, first=1_000_000)


def keep_the_gil() -> int:
    return sum(range(numbers_to_add()))


def block_of(served: Served, probe: Probe, path: str, cause: str) -> ReadableSpan:
    """The block of a request. If a busy machine doubled it, and it has another cause or no frame, it is repeated."""
    for number in range(10):
        served.get(path)
        wait_until(lambda number=number: len(blocked_spans(probe)) > number, what="a span of the block")
        span = blocked_spans(probe)[-1]
        is_seen = cause == "gc" or attribute(span, "fastperf.blocked.frames")
        if is_seen and attribute(span, "fastperf.blocked.cause") == cause:
            return span
        assert attribute(span, "fastperf.blocked.seconds") > 2 * BLOCKED, span.to_json()
    pytest.skip("the machine is too busy: each of the blocks took more than twice as long as it should")


def test_a_blocking_call_has_a_span_of_its_duration_under_the_guilty_request(serving: Start, probe: Probe) -> None:
    app, started = watched(probe), []

    @app.get("/price/{currency}")
    async def price(currency: str) -> str:
        started.append(wait_for_the_bank())
        return currency

    served, sent = serving(app), time.time()
    assert served.get("/price/eur").status == 200

    span, request = the_block_span(probe), server_span(probe)
    assert span.parent is not None
    assert request.context is not None
    assert (span.parent.span_id, request.name) == (request.context.span_id, "GET /price/{currency}")
    assert span.start_time is not None
    assert span.end_time is not None
    assert sent <= span.start_time / 1e9 <= started[0]
    assert started[0] + BLOCKED <= span.end_time / 1e9 <= time.time()
    assert (
        BLOCKED
        <= attribute(span, "fastperf.blocked.seconds")
        == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)
    )
    assert attribute(span, "fastperf.blocked.cause") == "sync_io"
    assert attribute(span, "code.file.path") == __file__
    assert attribute(span, "code.line.number") == line_of(wait_for_the_bank, "time.sleep")
    assert attribute(span, "code.function.name") == "wait_for_the_bank"
    assert [frame.rpartition(" ")[2] for frame in attribute(span, "fastperf.blocked.frames")] == [
        "wait_for_the_bank",
        "price",
    ]
    assert blocked_count(probe, "sync_io", "/price/{currency}") == 1


def test_a_blocking_call_is_a_finding_on_the_span_of_the_guilty_request(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    @app.get("/price")
    async def price() -> None:
        wait_for_the_bank()

    serving(app).get("/price")
    finding, request = the_finding(probe), server_span(probe)
    assert (finding.kind, finding.route, finding.subject) == ("blocking_call", "/price", "wait_for_the_bank")
    assert finding.call_site is not None
    assert finding.call_site.line == line_of(wait_for_the_bank, "time.sleep")
    assert finding.evidence["cause"] == "sync_io"
    message = (
        r"Code blocked the event loop for \d\.\d\d s \(sync_io\), called by the coroutine price at"
        r" monitors/test_watchdog\.py:\d+; 0 other requests waited\."
    )
    assert re.match(message, finding.message)
    assert "fastperf.blocking_call" in [event.name for event in request.events]


@pytest.mark.parametrize(
    ("block", "cause", "line"),
    [
        (wait_for_a_socket, "sync_io", "here.recv(1)"),
        (compute, "cpu", None),
        (keep_the_gil, "gil_held", "sum(range"),
    ],
)
def test_the_cause_is_derived_from_measurements(
    serving: Start, probe: Probe, block: Callable[[], object], cause: str, line: str | None
) -> None:
    app = watched(probe)
    numbers_to_add()

    @app.get("/work")
    async def work() -> None:
        block()

    span = block_of(serving(app), probe, "/work", cause)
    assert attribute(span, "code.function.name") == block.__name__
    if line is not None:
        assert attribute(span, "code.line.number") == line_of(block, line)
    finding = the_finding(probe)
    assert finding.subject == block.__name__
    assert finding.evidence["cause"] == cause or finding.count > 1


def test_a_garbage_collection_has_a_span_but_no_blocking_call_finding(serving: Start, probe: Probe) -> None:
    app, graph = watched(probe), []
    while collecting() < BLOCKED:
        graph += [[number] for number in range(1_000_000)]

    @app.get("/collect")
    async def collect() -> None:
        gc.collect()

    served = serving(app)
    gc.disable()  # an automatic collection is as long, and may come outside of the request
    try:
        span = block_of(served, probe, "/collect", "gc")
    finally:
        gc.enable()
    assert blocked_count(probe, "gc", "/collect") == 1
    assert span.context is not None
    reported = [finding for finding in probe.findings() if finding.kind == "blocking_call"]
    assert not [finding for finding in reported if format_trace_id(span.context.trace_id) in finding.trace_ids]
    del graph


def collecting() -> float:
    """Seconds for which the collector walks all objects."""
    started = time.thread_time()
    gc.collect()
    return time.thread_time() - started


def test_computation_is_reported_at_the_function_that_the_coroutine_calls(serving: Start, probe: Probe) -> None:
    """Each sample sees another line further inside, and this function is the one to move to a thread or process."""
    app = watched(probe)

    def inner(deadline: float) -> int:
        number = 0
        while time.thread_time() < min(deadline, number + deadline):
            number += 1
        return number

    def pack() -> int:
        return inner(time.thread_time() + BLOCKED)

    @app.get("/pack")
    async def boxes() -> int:
        return pack()

    serving(app).get("/pack")
    finding = the_finding(probe)
    assert finding.subject == "pack"
    assert isinstance(frames := finding.evidence["frames"], tuple)
    assert [frame.rpartition(" ")[2] for frame in frames] == ["inner", "pack", "boxes"]


def test_a_coroutine_that_computes_is_one_finding_whatever_line_is_sampled(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    @app.get("/count")
    async def count() -> None:
        number, deadline = 0, time.thread_time() + BLOCKED
        while time.thread_time() < deadline:
            number += 1
            number += 2
            number += 3

    served = serving(app)
    for _ in range(3):
        served.get("/count")
    wait_until(lambda: blocked_count(probe, "cpu", "/count") == 3, what="three blocks")
    finding = the_finding(probe)
    assert (finding.subject, finding.count) == ("count", 3)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Switch the collector off, because the many objects would make it the cause."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_work_of_the_framework_on_a_return_value_is_attributed_to_the_endpoint(serving: Start, probe: Probe) -> None:
    app, rows = watched(probe), [{"numbers": [number, number + 1]} for number in range(30_000)]
    returned = TypeAdapter(list[dict[str, list[int]]])
    times = calibrated(lambda times: returned.dump_json(returned.validate_python(rows * times)), BLOCKED, first=1)

    @app.get("/export")
    async def export() -> list[dict[str, list[int]]]:
        return rows * times

    serving(app).get("/export")
    finding = the_finding(probe)
    assert finding.call_site is not None
    assert (finding.call_site.function, finding.call_site.file) == ("export", __file__)
    assert abs(finding.call_site.line - line_of(export, "async def export")) <= 1


def test_a_synchronous_statement_is_a_span_but_not_this_finding(serving: Start, probe: Probe) -> None:
    app, engine = watched(probe), create_engine("sqlite://", poolclass=NullPool)
    counting = text(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < :last) SELECT max(x) FROM c"
    )

    def count_to(last: int) -> int:
        with engine.connect() as connection:
            return int(connection.execute(counting, {"last": last}).scalar_one())

    last = calibrated(count_to, BLOCKED, first=100_000)

    @app.get("/stars")
    async def stars() -> int:
        return count_to(last)

    serving(app).get("/stars")
    assert attribute(the_block_span(probe), "code.function.name") == "count_to"
    assert probe.findings() == ()
    engine.dispose()


def test_a_dependency_that_blocks_several_routes_is_one_finding(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    async def current_user() -> str:
        wait_for_the_bank()
        return "ann"

    for name in ("orders", "invoices"):

        @app.get(f"/{name}")
        def listed(user: Annotated[str, Depends(current_user)]) -> str:
            return user

    served = serving(app)
    for path in ("/orders", "/invoices", "/orders"):
        served.get(path)
    finding = the_finding(probe)
    assert finding.count == 3
    assert "called by the dependency current_user" in finding.message
    assert "make the dependency current_user `def`" in finding.remedy
    assert finding.evidence["routes"] == ("GET /orders", "GET /invoices")


def test_a_log_handler_that_blocks_is_to_write_in_a_thread(serving: Start, probe: Probe) -> None:
    app, logger = watched(probe), logging.getLogger("tests.slow")

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            wait_for_the_bank()

    logger.addHandler(Slow())

    @app.get("/price")
    async def price() -> None:
        logger.warning("sold")

    serving(app).get("/price")
    logger.handlers.clear()
    assert "QueueHandler" in the_finding(probe).remedy


def test_a_call_of_the_loop_without_a_line_of_the_application_blames_none(serving: Start, probe: Probe) -> None:
    """Not even the line that started the server, which is outside of the loop."""
    app = watched(probe, LoopSettings(blocked=0.15))
    numbers = numbers_to_add() * 4
    served = serving(app)
    app.state.loop.call_soon_threadsafe(sum, range(numbers))
    wait_until(lambda: blocks_by_code(probe), what="a span of the block")
    served.get("/ping")
    assert attribute(blocks_by_code(probe)[0], "fastperf.blocked.frames") == ()
    for finding in findings_by_code(probe):
        assert finding.call_site is None
        assert "Other threads" not in finding.message


def test_imports_by_the_first_request_are_no_finding(
    serving: Start, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text(f"import time; time.sleep({BLOCKED})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_import", raising=False)
    app = watched(probe)

    @app.get("/price")
    async def price() -> None:
        importlib.import_module("slow_to_import")

    serving(app).get("/price")
    wait_until(lambda: blocks_by_code(probe), what="a span of the block")
    assert findings_by_code(probe) == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_that_is_stopped_often_is_a_finding_without_a_line(loop: str) -> None:
    """The test uses SIGSTOP; a container at its CPU limit or a sleeping machine looks the same from inside."""
    script = textwrap.dedent(
        f"""
        import asyncio, json, sys, uvloop
        from opentelemetry import trace
        from otel_fastperf.internals.guard import Guard
        from otel_fastperf.metrics import Metrics
        from otel_fastperf.monitors.watchdog import monitor_blocked_loop
        from otel_fastperf.settings import LoopSettings
        from tests.conftest import signals_of

        signals = signals_of(trace.get_tracer("test"), Metrics(), Guard(print))

        async def main():
            async with monitor_blocked_loop(LoopSettings(blocked=0.6), signals):
                await asyncio.sleep(0.3)
                print("ready", flush=True)
                while not signals.findings.log.findings():
                    await asyncio.sleep(0.05)

        {"uvloop" if loop == "uvloop" else "asyncio"}.run(main())
        (finding,) = signals.findings.log.findings()
        print(json.dumps([finding.evidence["cause"], finding.call_site, finding.subject, finding.seconds]))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.3)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.5)  # it reports the block
        cause, call_site, subject, seconds = json.loads(process.stdout.readline())
    assert (cause, call_site, subject) == ("descheduled", None, "process")
    assert seconds >= 0.9


# The request of a block


def test_delayed_requests_are_counted_and_link_the_span_of_the_block(serving: Start, probe: Probe) -> None:
    app = watched(probe)
    waiting: list[RequestRecord | None] = []
    blocking: list[RequestRecord | None] = []

    @app.get("/block")
    async def block() -> None:
        while len(waiting) < 2:
            await asyncio.sleep(0.01)
        blocking.append(CURRENT.get())  # blocks do not keep it
        wait_for_the_bank()

    @app.get("/wait")
    async def wait() -> None:
        waiting.append(CURRENT.get())
        await asyncio.sleep(BLOCKED / 2)

    served = serving(app)
    with ThreadPoolExecutor(3) as clients:
        list(clients.map(served.get, ["/block", "/wait", "/wait"]))

    assert the_finding(probe).evidence["waiting_requests"] == 2
    (seen,) = [each for each in probe.signals.delays.blocks if each.owner is not None]
    span = the_block_span(probe).context
    assert span is not None
    assert seen.span is not None
    assert seen.span.span_id == span.span_id
    for record in waiting:
        assert isinstance(record, RequestRecord)
        wait_until(lambda record=record: record.ended, what="the end of the request")
        assert [wait.span for wait in blocks_that_delayed(record, probe.signals.delays.blocks) if wait.owner] == [
            seen.span
        ]
    waited = [request for request in probe.spans() if request.name == "GET /wait"]
    assert [[link.context.span_id for link in request.links] for request in waited] == [[span.span_id]] * 2
    assert all(attribute(request, "fastperf.time.loop_wait") > 0.1 for request in waited)
    assert seen.owner is not None
    assert not [wait for wait in blocks_that_delayed(seen.owner, probe.signals.delays.blocks) if wait.owner]


def test_the_request_is_found_from_tasks_that_work_for_it(serving: Start, probe: Probe) -> None:
    """`BaseHTTPMiddleware` runs the endpoint in a separate task, and endpoints gather others."""
    app = watched(probe)

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)

    async def ask() -> None:
        await asyncio.sleep(0.01)
        wait_for_the_bank()

    @app.get("/gather")
    async def gather() -> None:
        await asyncio.gather(asyncio.sleep(0.01), ask())

    serving(app).get("/gather")
    assert the_finding(probe).route == "/gather"
    assert the_finding(probe).subject == "wait_for_the_bank"


def test_a_block_in_middleware_is_reported_at_the_middleware(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    async def log(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        wait_for_the_bank()
        return response

    app.add_middleware(BaseHTTPMiddleware, dispatch=log)
    serving(app).get("/ping")
    finding = the_finding(probe)
    assert isinstance(frames := finding.evidence["frames"], tuple)
    assert [frame.rpartition(" ")[2] for frame in frames][:2] == ["wait_for_the_bank", "log"]


def test_a_block_in_a_background_task_is_in_the_trace_of_its_request(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    async def bill() -> None:
        await asyncio.sleep(0.1)
        wait_for_the_bank()

    @app.get("/order")
    async def order(tasks: BackgroundTasks) -> None:
        tasks.add_task(bill)

    serving(app).get("/order")
    span, request = the_block_span(probe), server_span(probe)
    assert span.parent is not None
    assert request.context is not None
    assert span.parent.span_id == request.context.span_id
    finding = the_finding(probe)
    assert (finding.route, finding.evidence["waiting_requests"]) == ("/order", 0)


def test_a_block_outside_of_requests_is_reported_without_a_route(run: Run, probe: Probe, until: Until) -> None:
    async def refresh() -> None:
        wait_for_the_bank()

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            await asyncio.create_task(refresh())
            await until(probe.findings)

    run(main())
    (span,) = blocks_by_code(probe)
    assert span.parent is None
    assert the_finding(probe).route == ""
    assert the_finding(probe).subject == "wait_for_the_bank"
    assert blocked_count(probe, "sync_io", "") == 1


def test_a_block_in_a_callback_without_a_task_is_reported(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_soon(wait_for_the_bank)
            await until(probe.findings)

    run(main())
    assert the_finding(probe).subject == "wait_for_the_bank"


def test_a_request_of_another_telemetry_does_not_own_the_block(run: Run, probe: Probe, until: Until) -> None:
    from opentelemetry.trace import INVALID_SPAN

    async def foreign() -> None:
        CURRENT.set(RequestRecord(object(), {"type": "http", "route": "theirs"}, INVALID_SPAN, time.perf_counter()))
        wait_for_the_bank()

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            await asyncio.create_task(foreign())
            await until(probe.findings)

    run(main())
    assert the_finding(probe).route == ""
    assert [block.owner for block in probe.signals.delays.blocks] == [None]


# Not a block


@contextmanager
def starving(thread: int) -> Iterator[None]:
    """On one processor, another process runs for most of the time and the thread of this one for a tenth of it."""
    processor = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        try:
            for each, priority in ((hog.pid, 0), (thread, 10)):
                os.sched_setaffinity(each, {processor})
                os.setpriority(os.PRIO_PROCESS, each, priority)
            yield
        finally:
            hog.kill()


def hash_without_the_gil() -> None:
    until_it_has_used_cpu(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000))


def count_with_the_gil() -> None:
    until_it_has_used_cpu(lambda: sum(range(1_000)))


def until_it_has_used_cpu(work: Callable[[], object], seconds: float = 0.05) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        work()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a thread had no processor")
@pytest.mark.parametrize("work", [hash_without_the_gil, count_with_the_gil])
def test_a_line_that_asks_for_a_lock_is_not_blamed_for_a_thread_that_gets_no_processor(
    run: Run, probe: Probe, work: Callable[[], None]
) -> None:
    lock, taken = threading.Lock(), threading.Event()

    def hold() -> None:
        with starving(threading.get_native_id()), lock:
            taken.set()
            work()

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.3)
            holder = asyncio.create_task(asyncio.to_thread(hold))
            await asyncio.to_thread(taken.wait)
            with lock:
                pass
            await holder
            await asyncio.sleep(0.3)

    run(main())
    if not blocked_spans(probe):
        pytest.skip("the thread got a processor")
    assert {attribute(span, "fastperf.blocked.cause") for span in blocked_spans(probe)} == {"descheduled"}
    assert not findings_by_code(probe)


def test_a_line_that_asks_for_a_lock_is_blamed_for_a_thread_that_waits(run: Run, probe: Probe) -> None:
    lock, taken = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            time.sleep(BLOCKED)

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.3)
            holder = asyncio.create_task(asyncio.to_thread(hold))
            await asyncio.to_thread(taken.wait)
            with lock:
                pass
            await holder
            await asyncio.sleep(0.3)

    run(main())
    assert attribute(the_block_span(probe), "fastperf.blocked.cause") == "sync_io"
    assert the_finding(probe).kind == "blocking_call"


def test_a_block_below_the_threshold_is_not_reported(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(LoopSettings(blocked=5 * BLOCKED), probe.signals):
            await asyncio.sleep(0.2)
            wait_for_the_bank()
            await asyncio.sleep(0.3)

    run(main())
    assert not probe.spans()
    assert not probe.signals.delays.blocks


def test_many_short_callbacks_are_not_one_long_block(run: Run, probe: Probe) -> None:
    """Twenty tasks are ready at once: the loop misses its beats for a second, but no single task is to blame."""

    async def turn() -> None:
        await asyncio.sleep(0)
        time.sleep(0.05)

    async def main() -> None:
        async with monitor_blocked_loop(LoopSettings(blocked=BLOCKED), probe.signals):
            await asyncio.sleep(0.1)
            await asyncio.gather(*(turn() for _ in range(20)))
            await asyncio.sleep(0.1)

    run(main())
    assert not blocks_by_code(probe)
    assert not findings_by_code(probe)


def test_a_block_before_the_first_beat_is_not_reported(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            wait_for_the_bank()
            await asyncio.sleep(0.1)

    run(main())
    assert not blocks_by_code(probe)


def test_a_loop_that_does_not_run_is_not_blocked(probe: Probe) -> None:
    """For example in a notebook, where the loop runs only while a cell does."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    loop.run_until_complete(stack.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals)))
    loop.run_until_complete(asyncio.sleep(0.1))
    time.sleep(BLOCKED)
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.run_until_complete(stack.aclose())
    loop.close()
    assert not blocks_by_code(probe)


def test_watching_an_idle_loop_reports_no_block_and_costs_little_cpu(run: Run, probe: Probe) -> None:
    async def cpu_seconds() -> float:
        started = time.process_time()
        await asyncio.sleep(3)
        return time.process_time() - started

    async def main() -> tuple[float, float]:
        async with monitor_blocked_loop(LoopSettings(), probe.signals):
            await asyncio.sleep(0.2)
            watched = await cpu_seconds()
        async with timer_and_thread(every=0.05):
            return watched, await cpu_seconds()

    watched, least = run(main())
    assert watched < 3 * least
    assert not blocks_by_code(probe)


@asynccontextmanager
async def timer_and_thread(every: float) -> AsyncIterator[None]:
    """The least that a watchdog needs: a timer of the loop and a thread, as often as it beats, and they do nothing."""
    ended = threading.Event()

    def thread() -> None:
        while not ended.wait(every):
            pass

    async def timer() -> None:
        while True:
            await asyncio.sleep(every)

    waking, beating = threading.Thread(target=thread), asyncio.create_task(timer())
    waking.start()
    yield
    ended.set()
    waking.join()
    beating.cancel()


# Life cycle


def test_spans_are_limited_per_minute_and_suppressed_ones_counted(run: Run, probe: Probe) -> None:
    settings = LoopSettings(blocked=0.15, spans_per_minute=2)

    async def main() -> None:
        async with monitor_blocked_loop(settings, probe.signals):
            for _ in range(4):
                await asyncio.sleep(0.1)
                wait_for_the_bank()
            await asyncio.sleep(0.1)

    run(main())
    counted = sum(blocked_count(probe, cause.value, "") or 0 for cause in BlockedBy)
    assert counted >= 4
    assert len(blocked_spans(probe)) == 2
    assert probe.value("fastperf_findings_suppressed_total", kind="blocking_call") == counted - 2


def test_a_block_of_an_idle_loop_is_seen_with_its_line_whenever_it_begins(run: Run, probe: Probe) -> None:
    """An idle loop beats rarely; the watchdog's looks in between find the block while it lasts."""
    settings, blocks = LoopSettings(), 8

    def block() -> None:
        time.sleep(0.25)

    async def main() -> None:
        async with monitor_blocked_loop(settings, probe.signals):
            await asyncio.sleep(0.3)
            for number in range(blocks):
                await asyncio.sleep(0.3 + number * 0.035)
                asyncio.get_running_loop().call_soon(block)
            await asyncio.sleep(0.3)

    run(main())
    lines = [attribute(span, "fastperf.blocked.frames") for span in blocked_spans(probe)]
    assert len([frames for frames in lines if frames and frames[0].endswith("block")]) == blocks


def test_a_block_is_reported_as_soon_as_it_ends(run: Run, probe: Probe) -> None:
    """Not with the next regular beat: the watchdog has asked for one."""

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.3)
            for _ in range(4):
                asyncio.get_running_loop().call_soon(wait_for_the_bank)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert probe.signals.delays.blocks.pop().end <= time.perf_counter()
                await asyncio.sleep(0.05)

    run(main())


def test_catch_up_records_a_block_before_the_next_beat(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            probe.signals.delays.catch_up()
            assert not probe.signals.delays.blocks
            wait_for_the_bank()
            probe.signals.delays.catch_up()
            (block,) = probe.signals.delays.blocks
            assert block.end - block.start >= BLOCKED
            probe.signals.delays.catch_up()
            await asyncio.sleep(0.1)
            assert list(probe.signals.delays.blocks) == [block]

    run(main())


def test_catch_up_during_a_block_does_not_hide_it(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(LoopSettings(blocked=0.6), probe.signals):
            await asyncio.sleep(0.2)
            for _ in range(8):
                time.sleep(0.1)
                probe.signals.delays.catch_up()
            await asyncio.sleep(0.1)

    run(main())
    (block,) = probe.signals.delays.blocks
    assert block.end - block.start >= 0.6


def test_the_monitor_stops_completely_and_can_be_restarted(run: Run, until: Until, probe: Probe) -> None:
    async def main() -> None:
        threads, before = threading.enumerate(), (asyncio.all_tasks(), probe.signals.delays.catch_up)
        for _ in range(2):
            async with monitor_blocked_loop(SETTINGS, probe.signals):
                await asyncio.sleep(0.1)
                assert [thread.name for thread in new_threads(threads)] == ["otel_fastperf-watchdog"]
                assert asyncio.all_tasks() == before[0]
            assert (asyncio.all_tasks(), probe.signals.delays.catch_up) == before
            await until(lambda: not new_threads(threads))

    run(main())
    assert probe.failures == []


def test_two_watchdogs_of_one_loop_can_stop_in_any_order(run: Run, probe: Probe) -> None:
    async def main() -> None:
        settle = probe.signals.delays.catch_up
        first, second = AsyncExitStack(), AsyncExitStack()
        await first.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals))
        await second.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals))
        await first.aclose()
        await asyncio.sleep(0.1)
        wait_for_the_bank()
        probe.signals.delays.catch_up()
        assert len(probe.signals.delays.blocks) == 1
        await second.aclose()
        probe.signals.delays.catch_up()
        assert settle is not None

    run(main())
    assert probe.failures == []


def test_each_loop_of_an_app_has_its_own_watchdog(run: Run, probe: Probe) -> None:
    """For example with two test clients of one app, each with a loop in a thread."""
    done = threading.Event()

    async def other() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            while not done.is_set():
                await asyncio.sleep(0.01)

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            thread = threading.Thread(target=run, args=(other(),))
            thread.start()
            await asyncio.sleep(0.3)
            wait_for_the_bank()
            probe.signals.delays.catch_up()
            assert len([block for block in probe.signals.delays.blocks if block.end - block.start > BLOCKED]) == 1
            done.set()
            thread.join()

    run(main())


def test_closing_a_watched_loop_causes_no_warning(run: Run, probe: Probe) -> None:
    async def main() -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals))
        return stack

    before = threading.enumerate()
    stack = run(main())
    wait_until(lambda: not new_threads(before), what="the watchdog ends with its loop")
    run(stack.aclose())
    del stack
    gc.collect()
    assert probe.failures == []


def test_a_failing_watchdog_is_counted_and_continues(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_arguments: object) -> None:
        raise RuntimeError("blind")

    monkeypatch.setattr(watchdog_module, "look", blind)

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            wait_for_the_bank()
            await until(lambda: probe.failures)
            monkeypatch.undo()
            await asyncio.sleep(0.1)
            wait_for_the_bank()
            await until(probe.findings)

    run(main())
    assert set(probe.failures) == {"watchdog"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_neither_hangs_nor_reports_and_the_parent_continues(run: Run, probe: Probe) -> None:
    async def main() -> int:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            child = os.fork()
            if child == 0:
                time.sleep(BLOCKED)
                probe.signals.delays.catch_up()
                os._exit(len(probe.signals.delays.blocks))
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - blocks the loop on purpose
            await asyncio.sleep(0.1)
            assert len([block for block in probe.signals.delays.blocks if block.end - block.start > BLOCKED]) == 1
            return os.waitstatus_to_exitcode(status)

    assert run(main()) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_watch_its_own_loop(run: Run, probe: Probe) -> None:
    async def child() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            wait_for_the_bank()
            await asyncio.sleep(0.1)

    async def main() -> int:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            number = os.fork()
            if number == 0:
                status = 1
                try:
                    asyncio.run(child())
                    status = 0 if the_finding(probe).subject == "wait_for_the_bank" else 2
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, number, 0))[1])

    assert run(main()) == 0
