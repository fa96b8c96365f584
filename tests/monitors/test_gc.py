"""Pauses of the garbage collector."""

import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from otel_fastperf.monitors import gc as gc_module
from otel_fastperf.monitors.gc import monitor_gc
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.settings import MemorySettings
from tests.conftest import Probe
from tests.monitors.conftest import PATIENCE, Run

Until = Callable[[Callable[[], object]], Awaitable[None]]

SETTINGS = MemorySettings()


@pytest.fixture(autouse=True)
def _only_collections_of_the_test() -> Iterator[None]:
    gc.disable()
    gc.freeze()  # a full collection would be slow with the objects left by earlier tests
    yield
    gc.unfreeze()
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
        before = list(gc.callbacks), list(probe.signals.metrics._refreshers), threading.enumerate()
        for rounds in (1, 2):
            async with monitor_gc(SETTINGS, probe.signals):
                gc.collect()
            gc.collect()
            assert pauses(probe, 2) == rounds
            assert (gc.callbacks, probe.signals.metrics._refreshers, threading.enumerate()) == before

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


def a_request(probe: Probe, path: str = "/reports") -> RequestRecord:
    span = probe.signals.tracer.start_span(path)
    route = APIRoute(path, lambda: None)
    scope = {"type": "http", "method": "GET", "path": path, "path_params": {}, "route": route}
    return RequestRecord(probe.signals, scope, span, time.perf_counter())


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


def test_an_automatic_collection_is_recognised_and_belongs_to_no_route(run: Run, probe: Probe) -> None:
    threshold = gc.get_threshold()

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            record = a_request(probe)
            CURRENT.set(record)
            gc.set_threshold(100, 1, 1)
            gc.enable()
            kept = [[number] for number in range(100_000)]
            gc.disable()
            gc.set_threshold(*threshold)
            ended(probe, record)
            del kept

    run(main())
    (finding,) = probe.findings()
    assert finding.evidence["explicit"] is False
    assert (finding.route, finding.call_site) == ("", None)
    assert "test_gc.py" in str(finding.evidence["allocating"])
    (span,) = probe.spans()
    assert span.context is not None
    assert finding.trace_ids == (f"{span.context.trace_id:032x}",)
    assert [event.name for event in span.events] == ["fastperf.gc_pause"]


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
            gc.collect()

    async def main() -> None:
        async with monitor_gc(LONG, probe.signals):
            thread = threading.Thread(target=collect, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()

    run(main())
    assert len(probe.findings()) == 1
