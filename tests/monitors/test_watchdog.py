"""The blocked event loop: real servers on both event loops, held in every way there is, and who is told."""

import asyncio
import gc
import inspect
import json
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
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from starlette.middleware.base import BaseHTTPMiddleware

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

Until = Callable[[Callable[[], object]], Awaitable[None]]

#: threshold of a block in these tests, in seconds: a busy machine may delay any thread by 50 ms
SETTINGS = LoopSettings(blocked=0.15)
BLOCKED = 0.4


def watched(probe: Probe, settings: LoopSettings = SETTINGS) -> FastAPI:
    """An app whose event loop is watched; its requests are observed by `serving`."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
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
    """Serve an app, its requests observed, on one of the event loops."""
    with ExitStack() as stack:

        def start(app: FastAPI) -> Served:
            stack.enter_context(observing(app, probe))
            served = stack.enter_context(serve(app, loop=request.param))
            # the loop has beaten by now
            time.sleep(0.2)
            return served

        yield start


def blocked_spans(probe: Probe) -> list[ReadableSpan]:
    return [span for span in probe.spans() if span.name == "event loop blocked"]


def the_block_span(probe: Probe) -> ReadableSpan:
    """The one span that tells of a block by code; what a busy machine does is none."""
    wait_until(lambda: blocks_by_code(probe), what="a span of the block")
    (span,) = blocks_by_code(probe)
    return span


def blocks_by_code(probe: Probe) -> list[ReadableSpan]:
    return [span for span in blocked_spans(probe) if attribute(span, "fastperf.blocked.cause") != "descheduled"]


def the_finding(probe: Probe) -> Finding:
    def found() -> list[Finding]:
        return [finding for finding in probe.findings() if finding.kind == "blocking_call"]

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
    return probe.value("fastperf_event_loop_blocked_seconds_count", cause=cause, http_route=route)


# What held it, and why


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


def keep_the_gil() -> int:
    return sum(range(30_000_000))


def test_a_blocking_call_is_a_span_of_its_true_time_under_the_guilty_request(serving: Start, probe: Probe) -> None:
    app, started = watched(probe), []

    @app.get("/price/{currency}")
    async def price(currency: str) -> str:
        started.append(wait_for_the_bank())
        return currency

    served = serving(app)
    assert served.get("/price/eur").status == 200

    span, request = the_block_span(probe), server_span(probe)
    assert span.parent is not None
    assert request.context is not None
    assert (span.parent.span_id, request.name) == (request.context.span_id, "GET /price/{currency}")
    assert span.start_time is not None
    assert span.end_time is not None
    assert abs(span.start_time / 1e9 - started[0]) < 0.03
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


def test_it_is_a_finding_on_the_span_of_the_guilty_request(serving: Start, probe: Probe) -> None:
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
    message = r"Code blocked the event loop for 0\.\d\d s \(sync_io\); 0 other requests waited\."
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
def test_the_cause_is_told_by_measurement(
    serving: Start, probe: Probe, block: Callable[[], object], cause: str, line: str | None
) -> None:
    app = watched(probe)

    @app.get("/work")
    async def work() -> None:
        block()

    serving(app).get("/work")
    finding = the_finding(probe)
    assert finding.evidence["cause"] == cause
    assert finding.call_site is not None
    assert finding.call_site.function == block.__name__
    if line is not None:
        assert finding.call_site.line == line_of(block, line)


def test_a_collection_of_garbage_is_a_span_but_not_this_finding(serving: Start, probe: Probe) -> None:
    app, graph = watched(probe), [[number] for number in range(3_000_000)]

    @app.get("/collect")
    async def collect() -> None:
        gc.collect()

    serving(app).get("/collect")
    span = the_block_span(probe)
    assert attribute(span, "fastperf.blocked.cause") == "gc"
    assert blocked_count(probe, "gc", "/collect") == 1
    assert not [finding for finding in probe.findings() if finding.kind == "blocking_call"]
    del graph


def test_computing_is_told_at_the_function_that_the_coroutine_calls(serving: Start, probe: Probe) -> None:
    """Further inside each look sees another line; a thread or a process is given this function."""
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


def test_a_coroutine_that_computes_is_one_finding_whatever_line_is_seen(serving: Start, probe: Probe) -> None:
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
    """Where so many objects are made that the collector would be the cause."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_what_the_framework_does_with_a_return_value_is_the_endpoints(serving: Start, probe: Probe) -> None:
    app = watched(probe)

    @app.get("/export")
    async def export() -> list[dict[str, list[int]]]:
        return [{"numbers": [number, number + 1]} for number in range(30_000)] * 8

    serving(app).get("/export")
    finding = the_finding(probe)
    assert finding.call_site is not None
    assert (finding.call_site.function, finding.call_site.file) == ("export", __file__)
    assert abs(finding.call_site.line - line_of(export, "async def export")) <= 1


def test_a_synchronous_statement_is_a_span_but_not_this_finding(serving: Start, probe: Probe) -> None:
    app, engine = watched(probe), create_engine("sqlite://", poolclass=NullPool)
    numbers = text(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 4000000) SELECT max(x) FROM c"
    )

    @app.get("/stars")
    async def stars() -> int:
        with engine.connect() as connection:
            return int(connection.execute(numbers).scalar_one())

    serving(app).get("/stars")
    assert (
        attribute(the_block_span(probe), "code.function.name")
        == "test_a_synchronous_statement_is_a_span_but_not_this_finding.<locals>.stars".rpartition(".")[2]
    )
    assert probe.findings() == ()
    engine.dispose()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_that_was_stopped_blames_nobody(loop: str) -> None:
    """SIGSTOP here; a container at its CPU limit, or a machine that sleeps, looks the same from inside."""
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
            async with monitor_blocked_loop(LoopSettings(), signals):
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
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.3)
        process.send_signal(signal.SIGCONT)
        cause, call_site, subject, seconds = json.loads(process.stdout.readline())
    assert (cause, call_site, subject) == ("descheduled", None, "process")
    assert seconds >= 1.2


# Whose request it was


def test_other_requests_that_waited_are_counted_and_know_the_block_span(serving: Start, probe: Probe) -> None:
    app, waiting = watched(probe), []

    @app.get("/block")
    async def block() -> None:
        await asyncio.sleep(0.2)
        wait_for_the_bank()

    @app.get("/wait")
    async def wait() -> None:
        waiting.append(CURRENT.get())
        await asyncio.sleep(0.3)

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


def test_the_request_is_found_from_the_tasks_that_work_for_it(serving: Start, probe: Probe) -> None:
    """`BaseHTTPMiddleware` runs the endpoint in a task of its own, and endpoints gather others."""
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


def test_middleware_that_blocks_is_named_itself(serving: Start, probe: Probe) -> None:
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


def test_a_background_task_stays_in_the_trace_of_its_request(serving: Start, probe: Probe) -> None:
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


def test_code_outside_of_requests_is_told_without_a_route(run: Run, probe: Probe, until: Until) -> None:
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


def test_a_callback_that_is_no_tasks_is_told_too(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_soon(wait_for_the_bank)
            await until(probe.findings)

    run(main())
    assert the_finding(probe).subject == "wait_for_the_bank"


def test_the_request_of_another_telemetry_is_not_ours(run: Run, probe: Probe, until: Until) -> None:
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


# What is no block


def test_what_is_shorter_than_the_threshold_is_nothing(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(LoopSettings(blocked=0.8), probe.signals):
            await asyncio.sleep(0.2)
            wait_for_the_bank()
            await asyncio.sleep(0.3)

    run(main())
    assert not probe.spans()
    assert not probe.signals.delays.blocks


def test_many_short_turns_are_not_one_long_one(run: Run, probe: Probe) -> None:
    """Twenty tasks are ready at once: the loop does not beat for half a second, and none of them is to blame."""

    async def turn() -> None:
        await asyncio.sleep(0)
        time.sleep(0.025)

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            await asyncio.gather(*(turn() for _ in range(20)))
            await asyncio.sleep(0.1)

    run(main())
    assert not blocks_by_code(probe)
    assert probe.findings() == ()


def test_work_before_the_first_beat_belongs_to_start_up(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            wait_for_the_bank()
            await asyncio.sleep(0.1)

    run(main())
    assert not probe.spans()


def test_a_loop_that_does_not_run_is_not_held(probe: Probe) -> None:
    """As in a notebook, where it runs from cell to cell."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    loop.run_until_complete(stack.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals)))
    loop.run_until_complete(asyncio.sleep(0.1))
    time.sleep(BLOCKED)
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.run_until_complete(stack.aclose())
    loop.close()
    assert not blocks_by_code(probe)


def test_an_idle_loop_is_never_held_and_costs_next_to_nothing(run: Run, probe: Probe) -> None:
    async def main() -> float:
        async with monitor_blocked_loop(LoopSettings(), probe.signals):
            await asyncio.sleep(0.2)
            started = time.process_time()
            await asyncio.sleep(3)
            return (time.process_time() - started) / 3

    assert run(main()) < 0.02
    assert not blocks_by_code(probe)


# How it lives


def test_spans_are_limited_and_what_is_held_back_is_counted(run: Run, probe: Probe) -> None:
    settings = LoopSettings(blocked=0.05, spans_per_minute=2)

    async def main() -> None:
        async with monitor_blocked_loop(settings, probe.signals):
            for _ in range(4):
                await asyncio.sleep(0.1)
                time.sleep(0.12)
            await asyncio.sleep(0.1)

    run(main())
    counted = blocked_count(probe, "sync_io", "") or 0
    others = blocked_count(probe, "descheduled", "") or 0
    assert counted == 4
    assert len(blocked_spans(probe)) == 2
    suppressed = probe.value("fastperf_findings_suppressed_total", kind="blocking_call")
    assert suppressed == counted + others - 2


def test_a_block_that_no_beat_has_seen_yet_is_noted_when_asked_for(run: Run, probe: Probe) -> None:
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


def test_asking_in_the_middle_of_a_block_does_not_hide_it(run: Run, probe: Probe) -> None:
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


def test_it_ends_without_a_trace_and_may_begin_again(run: Run, probe: Probe) -> None:
    async def main() -> None:
        before = threading.enumerate(), asyncio.all_tasks(), probe.signals.delays.catch_up
        for _ in range(2):
            async with monitor_blocked_loop(SETTINGS, probe.signals):
                await asyncio.sleep(0.1)
                assert len(threading.enumerate()) == len(before[0]) + 1
                assert asyncio.all_tasks() == before[1]
            assert (threading.enumerate(), asyncio.all_tasks(), probe.signals.delays.catch_up) == before

    run(main())
    assert probe.failures == []


def test_two_of_one_loop_may_end_in_any_order(run: Run, probe: Probe) -> None:
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


def test_two_loops_of_one_app_each_have_their_own(run: Run, probe: Probe) -> None:
    """As two test clients of one app, each with a loop in a thread."""
    held = threading.Event()

    async def other() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            while not held.is_set():
                await asyncio.sleep(0.01)

    async def main() -> None:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            thread = threading.Thread(target=run, args=(other(),))
            thread.start()
            await asyncio.sleep(0.3)
            wait_for_the_bank()
            probe.signals.delays.catch_up()
            assert len([block for block in probe.signals.delays.blocks if block.end - block.start > BLOCKED]) == 1
            held.set()
            thread.join()

    run(main())


def test_a_loop_that_is_closed_under_it_closes_in_silence(run: Run, probe: Probe) -> None:
    async def main() -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(monitor_blocked_loop(SETTINGS, probe.signals))
        return stack

    stack = run(main())
    wait_until(lambda: all(thread.name != "otel_fastperf-watchdog" for thread in threading.enumerate()))
    run(stack.aclose())
    del stack
    gc.collect()
    assert probe.failures == []


def test_a_watchdog_that_fails_is_counted_and_goes_on(
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
def test_a_child_of_a_fork_neither_hangs_nor_reports_and_the_parent_goes_on(run: Run, probe: Probe) -> None:
    async def main() -> int:
        async with monitor_blocked_loop(SETTINGS, probe.signals):
            await asyncio.sleep(0.1)
            child = os.fork()
            if child == 0:
                time.sleep(BLOCKED)
                probe.signals.delays.catch_up()
                os._exit(len(probe.signals.delays.blocks))
            _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - held meanwhile
            await asyncio.sleep(0.1)
            assert len([block for block in probe.signals.delays.blocks if block.end - block.start > BLOCKED]) == 1
            return os.waitstatus_to_exitcode(status)

    assert run(main()) == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_may_watch_a_loop_of_its_own(run: Run, probe: Probe) -> None:
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
