"""Pauses of the garbage collector."""

import gc
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.detectors import gc_pause as detector
from otel_fastperf.monitors import gc as gc_module
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.settings import MemorySettings
from tests.conftest import Probe
from tests.monitors.conftest import PATIENCE, Run
from tests.threads import new_threads

Until = Callable[[Callable[[], object]], Awaitable[None]]

SETTINGS = MemorySettings()


@pytest.fixture(autouse=True)
def _only_collections_of_the_test() -> Iterator[None]:
    thresholds = gc.get_threshold()
    gc.disable()
    gc.freeze()  # a full collection would be slow with the objects left by earlier tests
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.enable()


def pauses(probe: Probe, generation: int) -> float | None:
    return probe.value("fastperf_gc_pause_seconds_count", generation=str(generation))


def paused(probe: Probe, generation: int) -> float:
    return probe.value("fastperf_gc_pause_seconds_sum", generation=str(generation)) or 0.0


def scrape(probe: Probe) -> None:
    assert list(probe.signals.metrics.refresh()) == []


def test_every_collection_is_a_pause_of_its_generation(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            for generation, times in enumerate((3, 2, 1)):
                for _ in range(times):
                    gc.collect(generation)
            scrape(probe)
            assert [pauses(probe, generation) for generation in range(3)] == [3, 2, 1]

    run(main())


def test_a_pause_is_as_long_as_the_collection(run: Run, probe: Probe) -> None:
    async def main() -> float:
        garbage = [[number] for number in range(200_000)]
        async with monitor_gc(SETTINGS, probe.signals):
            started = time.perf_counter()
            gc.collect()
            seconds = time.perf_counter() - started
        del garbage
        return seconds

    seconds = run(main())
    assert 0.3 * seconds < paused(probe, 2) <= seconds


def test_a_generation_that_was_not_collected_has_a_series_of_zero(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            pass

    run(main())
    assert [pauses(probe, generation) for generation in range(3)] == [0, 0, 0]


def test_collections_in_other_threads_are_counted(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            thread = threading.Thread(target=gc.collect)
            thread.start()
            thread.join()

    run(main())
    assert pauses(probe, 2) == 1


def test_pauses_are_counted_without_scrapes(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc_module, "_INTERVAL", 0.01)

    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            gc.collect()
            await until(lambda: pauses(probe, 2) == 1)

    run(main())


def test_number_and_time_are_right_even_for_pauses_beyond_the_kept_ones(
    run: Run, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc_module, "_PENDING", 5)
    first: list[float] = []
    last: list[float] = []

    async def main() -> None:
        gc.callbacks.insert(0, lambda *_: first.append(time.perf_counter()))
        async with monitor_gc(SETTINGS, probe.signals):
            gc.callbacks.append(lambda *_: last.append(time.perf_counter()))
            for _ in range(3):
                for _ in range(40):
                    gc.collect()
                scrape(probe)
            del gc.callbacks[0], gc.callbacks[-1]

    run(main())
    assert pauses(probe, 2) == 120
    # the monitor's callback runs between these two, both when a collection starts and when it stops
    assert sum(first[1::2]) - sum(last[::2]) < paused(probe, 2) < sum(last[1::2]) - sum(first[::2])


def test_a_collection_inside_a_metric_s_lock_does_not_hang(run: Run, probe: Probe) -> None:
    """An allocation in `Histogram.observe` may start a collection while the histogram's lock is held."""

    def collect() -> None:
        with probe.signals.metrics.gc_pause.child("2")._sum._lock:
            gc.collect()

    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            thread = threading.Thread(target=collect, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    run(main())
    assert pauses(probe, 2) == 1


def test_collections_during_the_counting_neither_hang_nor_get_lost(
    run: Run, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a threshold of 1 nearly every allocation starts a collection, including those of the counting itself."""
    threshold = gc.get_threshold()
    seen = []
    monkeypatch.setattr(gc_module, "_PENDING", 50)

    def witness(phase: str, _info: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(phase)

    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            gc.callbacks.append(witness)
            gc.set_threshold(1, 1, 1)
            gc.enable()
            for _ in range(5):
                scrape(probe)
            gc.disable()
            gc.set_threshold(*threshold)
            gc.callbacks.remove(witness)

    run(main())
    assert len(seen) > 0
    assert sum(pauses(probe, generation) or 0 for generation in range(3)) == len(seen)


def test_a_failing_metric_is_counted_and_the_monitor_continues(
    run: Run, probe: Probe, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(gc_module, "_INTERVAL", 0.01)

    async def main() -> None:
        async with monitor_gc(SETTINGS, probe.signals):
            monkeypatch.setattr(probe.signals.metrics.gc_pause.child("2"), "observe", None)
            gc.collect()
            await until(lambda: probe.failures)
            gc.collect()

    run(main())
    assert set(probe.failures) == {"gc_monitor"}


def test_the_monitor_stops_completely_and_can_be_restarted(run: Run, probe: Probe) -> None:
    async def main() -> None:
        before, threads = (list(gc.callbacks), list(probe.signals.metrics._refreshers)), threading.enumerate()
        for rounds in (1, 2):
            async with monitor_gc(SETTINGS, probe.signals):
                gc.collect()
            gc.collect()
            assert pauses(probe, 2) == rounds
            assert (gc.callbacks, probe.signals.metrics._refreshers) == before
            assert new_threads(threads) == []

    run(main())


def test_two_monitors_can_stop_in_any_order(run: Run, probe: Probe) -> None:
    async def main() -> None:
        first, second = monitor_gc(SETTINGS, probe.signals), monitor_gc(SETTINGS, probe.signals)
        before = list(gc.callbacks)
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        gc.collect()
        await second.__aexit__(None, None, None)
        assert gc.callbacks == before

    run(main())
    assert pauses(probe, 2) == 1


# Pauses in time budgets, and long pauses as findings.

LONG = MemorySettings(gc_pause=1e-6)


@pytest.fixture
def _tick_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc_module, "_INTERVAL", 0.01)


@pytest.fixture
def _from_the_first_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report automatic collections that neither repeat nor take a real share of time."""
    monkeypatch.setattr(detector, "_REPEATED", 1)
    monkeypatch.setattr(detector, "_REAL_SHARE", 0.0)
    monkeypatch.setattr(detector, "_REAL_CPU_SHARE", 0.0)


def a_request(probe: Probe, path: str = "/reports") -> RequestRecord:
    span = probe.signals.tracer.start_span(path)
    route = APIRoute(path, lambda: None)
    scope = {"type": "http", "method": "GET", "path": path, "path_params": {}, "route": route}
    return RequestRecord(probe.signals, scope, span, time.perf_counter())


def allocate(number: int = 100_000) -> None:
    """Make objects that start automatic collections."""
    threshold = gc.get_threshold()
    gc.set_threshold(100, 1, 1)
    gc.enable()
    kept = [[number] for number in range(number)]
    gc.disable()
    gc.set_threshold(*threshold)
    del kept


def ended(probe: Probe, record: RequestRecord) -> None:
    """End the request like the request layer does."""
    record.ended = time.perf_counter()
    probe.signals.findings.request_ended(record)
    record.span.end()


def test_every_pause_blocks_requests_from_its_start_to_its_end(run: Run, probe: Probe) -> None:
    async def main() -> tuple[float, float]:
        async with monitor_gc(SETTINGS, probe.signals):
            before = time.perf_counter()
            gc.collect(0)
            gc.collect()
            return before, time.perf_counter()

    before, after = run(main())
    first, second = probe.signals.delays.pauses
    assert before < first[0] < first[1] < second[0] < second[1] < after


def test_a_long_explicit_collection_in_a_request_is_found_with_its_line_on_its_span(run: Run, probe: Probe) -> None:
    async def main() -> int:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            gc.collect()
            ended(probe, record)
            return record.span.get_span_context().trace_id

    trace_id = run(main())
    (finding,) = probe.findings()
    assert (finding.kind, finding.subject) == ("gc_pause", "gc.collect()")
    assert finding.call_site is not None
    assert Path(finding.call_site.file).read_text().splitlines()[finding.call_site.line - 1].strip() == "gc.collect()"
    assert finding.trace_ids == (f"{trace_id:032x}",)
    assert finding.route == "/reports"
    (span,) = probe.spans()
    assert [event.name for event in span.events] == ["fastperf.gc_pause"]


@pytest.mark.usefixtures("_from_the_first_on")
def test_an_automatic_collection_belongs_to_the_route_that_allocates_and_to_its_line(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            allocate()
            ended(probe, record)

    run(main())
    # a thread of an earlier test may start a collection too, which belongs to no request
    (finding,) = (finding for finding in probe.findings() if finding.trace_ids)
    assert finding.evidence["explicit"] is False
    assert finding.route == "/reports"
    assert finding.call_site is not None
    assert finding.call_site.function == "allocate"


def _make_the_next_collection_a_long_one() -> None:
    """Since Python 3.12 a call of C code starts one collection at its end, however many objects it makes."""
    gc.set_threshold(2000, 2, 2)
    for generation in (1, 1, 1, 0, 0, 0):
        gc.collect(generation)


@pytest.mark.usefixtures("_from_the_first_on")
def test_objects_that_the_framework_makes_of_a_body_belong_to_the_endpoint() -> None:
    """No frame of the application is on the stack meanwhile."""
    app = FastAPI()

    @app.post("/points")
    async def add(points: list[dict[str, list[int]]]) -> int:
        gc.disable()
        return len(points)

    class Collecting:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                gc.enable()
            await self.app(scope, receive, send)

    app.add_middleware(Collecting)
    body = [{"x": [1, 2]}] * 50_000
    with setup_telemetry(app, settings=Settings(memory=LONG)) as telemetry, TestClient(app) as client:
        _make_the_next_collection_a_long_one()
        assert client.post("/points", json=body).json() == 50_000
        findings = [finding for finding in telemetry.findings() if finding.kind == "gc_pause" and finding.route]
    (finding,) = findings
    assert finding.where == "POST /points"
    assert finding.call_site is not None
    assert finding.call_site.function == "add"
    assert Path(finding.call_site.file).read_text().splitlines()[finding.call_site.line - 1].strip().startswith("async")
    assert "body or the response is large" in finding.remedy


@pytest.mark.usefixtures("_from_the_first_on", "_tick_at_once")
def test_an_automatic_collection_belongs_to_no_route_if_other_code_starts_as_many(
    run: Run, probe: Probe, until: Until
) -> None:
    """The request is then one of many that are affected, by chance."""

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            allocate()
            # the pauses outside of requests are known before those of the request are reported
            await until(probe.findings)
            record = a_request(probe)
            CURRENT.set(record)
            allocate(500)
            ended(probe, record)

    run(main())
    finding = next(finding for finding in probe.findings() if finding.trace_ids)
    assert (finding.route, finding.call_site) == ("", None)
    assert "allocate" in str(finding.evidence["allocating"])
    (span,) = probe.spans()
    assert span.context is not None
    assert finding.trace_ids == (f"{span.context.trace_id:032x}",)
    assert [event.name for event in span.events] == ["fastperf.gc_pause"]


@pytest.mark.usefixtures("_from_the_first_on")
def test_an_automatic_collection_after_objects_were_freed_is_not_told_as_an_explicit_one(
    run: Run, probe: Probe
) -> None:
    """Since Python 3.12 it waits until C code has returned, which may have freed what it had made."""
    thresholds = gc.get_threshold()
    kept: list[object] = []

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            gc.set_threshold(2000, 1, 1)
            gc.enable()
            for _ in range(60):
                kept.append([[] for _ in range(3000)])
                deque(map(list, repeat(map(list, [()] * 3000), 1)), maxlen=0)
            gc.disable()
            gc.set_threshold(*thresholds)
            ended(probe, record)

    run(main())
    assert probe.findings()
    assert {finding.evidence["explicit"] for finding in probe.findings()} == {False}


@pytest.mark.usefixtures("_from_the_first_on")
def test_an_automatic_collection_is_not_told_as_an_explicit_one_if_another_thread_frees_objects_meanwhile(
    run: Run, probe: Probe
) -> None:
    """The other thread gets its turn when the callback starts, which is the first Python code after long C code."""
    freed = [[] for _ in range(10_000)]  # type: ignore[var-annotated]

    def another_thread(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"]:
            del freed[-1000:]

    async def main() -> None:
        gc.callbacks.append(another_thread)
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            allocate(1000)
            ended(probe, record)
        gc.callbacks.remove(another_thread)

    run(main())
    assert len(freed) < 10_000
    assert probe.findings()
    assert {finding.evidence["explicit"] for finding in probe.findings()} == {False}


def test_a_request_that_collects_is_one_finding_despite_other_collections(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            for _ in range(3):
                gc.collect(0)
                gc.collect()
            ended(probe, record)

    run(main())
    (finding,) = probe.findings()
    assert (finding.count, finding.evidence["pauses"]) == (1, 3)


def test_a_pause_of_the_youngest_generation_yields_no_finding(run: Run, probe: Probe) -> None:
    """It has a few hundred objects, so only a busy machine makes it long."""

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            gc.collect(0)

    run(main())
    assert probe.findings() == ()


@pytest.mark.usefixtures("_tick_at_once")
def test_a_collection_outside_of_requests_is_found_too(run: Run, probe: Probe, until: Until) -> None:
    def clean_up() -> None:
        for _ in range(3):
            gc.collect()

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            thread = threading.Thread(target=clean_up)
            thread.start()
            thread.join()
            await until(probe.findings)

    run(main())
    (finding,) = probe.findings()
    assert finding.call_site is not None
    assert "clean_up" in finding.call_site.function


@pytest.mark.usefixtures("_tick_at_once")
def test_a_pause_in_an_endless_request_is_reported_eventually(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc_module, "_PATIENCE", 0.05)

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            CURRENT.set(a_request(probe, "/stream"))
            gc.collect()
            await until(probe.findings)

    run(main())
    assert len(probe.findings()) == 1


def test_pending_pauses_are_reported_when_the_monitor_stops(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            CURRENT.set(a_request(probe, "/stream"))
            gc.collect()

    run(main())
    assert len(probe.findings()) == 1


def test_a_short_pause_yields_no_finding(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(MemorySettings(gc_pause=10.0), probe.signals):
            gc.collect()

    run(main())
    assert probe.findings() == ()


def test_a_pause_in_a_request_of_another_app_is_left_to_that_app(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            record.owner = object()
            CURRENT.set(record)
            gc.collect()

    run(main())
    assert probe.findings() == ()


def test_a_long_pause_inside_a_metric_s_lock_does_not_hang(run: Run, probe: Probe) -> None:
    def collect() -> None:
        with probe.signals.metrics.gc_pause.child("2")._sum._lock, probe.signals.findings.log._lock:
            for _ in range(3):
                gc.collect()

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            thread = threading.Thread(target=collect, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    run(main())
    assert len(probe.findings()) == 1
