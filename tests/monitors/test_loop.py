"""The event loop's heartbeat."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from otel_fastperf.event_loop import clocks as loopclocks
from otel_fastperf.monitors import loop as loop_module
from otel_fastperf.monitors.loop import monitor_loop
from otel_fastperf.settings import LoopSettings
from tests.conftest import Probe
from tests.monitors.conftest import Run
from tests.threads import new_threads

Until = Callable[[Callable[[], object]], Awaitable[None]]

FAST = LoopSettings(interval=0.01)


def beats(probe: Probe) -> float:
    return probe.value("fastperf_event_loop_lag_seconds_count") or 0.0


def beats_later_than(probe: Probe, seconds: str) -> float:
    return beats(probe) - (probe.value("fastperf_event_loop_lag_seconds_bucket", le=seconds) or 0.0)


def busy(probe: Probe) -> float:
    return probe.value("fastperf_event_loop_busy_seconds_total") or 0.0


async def one_more_beat(probe: Probe, until: Until) -> None:
    """Wait for one more beat: time is counted at beats only, and the monitor may end before the next one."""
    before = beats(probe)
    await until(lambda: beats(probe) > before)


def test_a_block_between_two_scrapes_is_one_sample_of_its_length(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        async with monitor_loop(LoopSettings(), probe.signals):
            await until(lambda: beats(probe) > 2)
            time.sleep(0.9)
            await one_more_beat(probe, until)

    run(main())
    assert beats_later_than(probe, "0.5") == 1
    # the timer was due at most 0.25 s after the block began
    assert (probe.value("fastperf_event_loop_lag_seconds_sum") or 0.0) >= 0.64


def test_the_heart_of_an_idle_loop_beats_slowly_and_of_a_busy_one_as_set(run: Run, probe: Probe) -> None:
    async def main() -> tuple[float, float]:
        async with monitor_loop(LoopSettings(interval=0.02), probe.signals):
            await asyncio.sleep(1.5)
            idle = beats(probe)
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                time.sleep(0.005)
                await asyncio.sleep(0.005)
            return idle, beats(probe) - idle

    idle, busy = run(main())
    # 6 on an idle machine; 75 if it did not slow down
    assert 1 <= idle <= 30
    assert busy >= 25


def test_an_idle_loop_is_not_busy(run: Run, probe: Probe) -> None:
    """The usual share is a hundredth; a busy machine delays the loop now and then."""

    async def main() -> float:
        async with monitor_loop(LoopSettings(), probe.signals):
            started = time.perf_counter()
            await asyncio.sleep(1.5)
            return time.perf_counter() - started

    seconds = run(main())
    assert 0 < busy(probe) < 0.5 * seconds
    assert 0 < (probe.value("fastperf_event_loop_utilization_ratio") or 0.0) < 0.5


@pytest.mark.parametrize("pause", [0.005, 0.0], ids=["half of the time", "all of the time"])
def test_short_blocking_calls_count_as_busy_time(run: Run, probe: Probe, until: Until, pause: float) -> None:
    """For example of a synchronous database driver: they use no CPU and are too short to delay the heartbeat."""

    async def main() -> tuple[float, float]:
        async with monitor_loop(LoopSettings(), probe.signals):
            await one_more_beat(probe, until)
            before, blocked = busy(probe), 0.0
            for _ in range(100):
                started = time.perf_counter()
                time.sleep(0.005)
                blocked += time.perf_counter() - started
                await asyncio.sleep(pause)
            await one_more_beat(probe, until)
            return busy(probe) - before, blocked

    measured, blocked = run(main())
    assert measured >= 0.85 * blocked


def test_many_tiny_callbacks_make_the_loop_busy(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> tuple[float, float]:
        async with monitor_loop(LoopSettings(), probe.signals):
            await one_more_beat(probe, until)
            before, started = busy(probe), time.perf_counter()
            while time.perf_counter() < started + 0.5:
                await asyncio.sleep(0)
            seconds = time.perf_counter() - started
            await one_more_beat(probe, until)
            return busy(probe) - before, seconds

    measured, seconds = run(main())
    assert measured >= 0.85 * seconds


def test_busy_time_never_exceeds_elapsed_time(run: Run, probe: Probe) -> None:
    async def main() -> float:
        started = time.perf_counter()
        async with monitor_loop(FAST, probe.signals):
            while time.perf_counter() < started + 1.5:
                time.sleep(0.02)
                await asyncio.sleep(0)
        return time.perf_counter() - started

    seconds = run(main())
    assert busy(probe) <= seconds
    assert 0.8 < (probe.value("fastperf_event_loop_utilization_ratio") or 0.0) <= 1.0


def test_a_scrape_during_a_block_shows_the_lag(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_WINDOW", 0.1)
    seen: list[float | None] = []

    def scrape() -> None:
        time.sleep(0.4)
        assert list(probe.signals.metrics.refresh()) == []
        seen.append(probe.value("fastperf_event_loop_utilization_ratio"))

    async def main() -> None:
        async with monitor_loop(FAST, probe.signals):
            await until(lambda: beats(probe))
            thread = threading.Thread(target=scrape)
            thread.start()
            thread.join()  # blocks the loop

    run(main())
    assert seen == [1.0]


def test_tasks_are_counted(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(50)]
        async with monitor_loop(FAST, probe.signals):
            await until(lambda: probe.value("fastperf_event_loop_tasks") == 51)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_many_tasks_are_counted_so_rarely_that_the_cost_is_negligible(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = spent = 0.0

    def all_tasks(_loop: asyncio.AbstractEventLoop) -> range:
        nonlocal now, spent
        now, spent = now + 0.01, spent + 0.01
        return range(20_000)

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(loop_module, "asyncio", SimpleNamespace(all_tasks=all_tasks))
    loop = asyncio.new_event_loop()
    counter = loop_module._TaskCount(loop, probe.signals.metrics)
    for _ in range(100):
        counter.tick(0.0)
        now += 1.0
    assert 0.003 * now <= spent <= 0.004 * now
    assert probe.value("fastperf_event_loop_tasks") == 20_000
    loop.close()


def test_the_monitor_stops_completely_and_can_be_restarted(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        before, threads = traces(), threading.enumerate()
        for _ in range(2):
            async with monitor_loop(FAST, probe.signals):
                await one_more_beat(probe, until)
            ended = beats(probe)
            await asyncio.sleep(0.05)
            assert beats(probe) == ended
            assert (traces(), new_threads(threads)) == (before, [])

    run(main())


def traces() -> list[Any]:
    """Everything that a monitor could have changed in this loop, process and class."""
    loop = asyncio.get_running_loop()
    selector = getattr(loop, "_selector", None)
    changed_selector = [] if selector is None else list(vars(selector))
    return [asyncio.all_tasks(), vars(type(loop)).copy(), changed_selector]


def test_two_monitors_of_one_loop_can_stop_in_any_order(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        before, threads = traces(), threading.enumerate()
        first, second = AsyncExitStack(), AsyncExitStack()
        await first.enter_async_context(monitor_loop(FAST, probe.signals))
        await second.enter_async_context(monitor_loop(FAST, probe.signals))
        await first.aclose()
        started = busy(probe)
        time.sleep(0.2)
        await one_more_beat(probe, until)
        assert busy(probe) - started >= 0.15
        await second.aclose()
        assert (traces(), new_threads(threads)) == (before, [])

    run(main())


def test_a_failing_heartbeat_is_counted_and_continues(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe.signals.metrics, "loop_lag", None)

    async def main() -> None:
        async with monitor_loop(FAST, probe.signals):
            await until(lambda: len(probe.failures) > 2)

    run(main())
    assert set(probe.failures) == {"loop_monitor"}


def test_an_unknown_kind_of_loop_is_measured_by_cpu_time_and_lag(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(loop: asyncio.AbstractEventLoop) -> Any:
        raise AttributeError(loop)

    monkeypatch.setattr(loopclocks, "_idle_clock_of", unknown)

    async def main() -> None:
        async with monitor_loop(FAST, probe.signals):
            await until(lambda: beats(probe))
            time.sleep(0.3)
            await one_more_beat(probe, until)

    run(main())
    assert probe.failures == ["loop_monitor"]
    assert busy(probe) >= 0.25


def test_a_loop_without_an_idle_clock_keeps_its_beat(run: Run, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopclocks, "_idle_clock_of", lambda _loop: nullcontext(None))

    async def main() -> None:
        async with monitor_loop(FAST, probe.signals):
            await asyncio.sleep(1)

    run(main())
    assert beats(probe) >= 20


def test_closing_a_monitored_loop_causes_no_warning(run: Run, probe: Probe) -> None:
    """For example when a test client's loop ends in the middle of a lifespan. A warning fails this test."""

    async def main() -> AsyncExitStack:
        stack = AsyncExitStack()
        await stack.enter_async_context(monitor_loop(FAST, probe.signals))
        return stack

    stack = run(main())
    run(stack.aclose())
    del stack
    gc.collect()
    assert probe.failures == []


def test_an_answer_for_which_a_busy_loop_had_no_time_is_told_from_a_slow_one(
    run: Run, probe: Probe, until: Until
) -> None:
    """No step of the work is a block, and a round of all of them takes long."""

    async def part(end: float) -> None:
        while time.perf_counter() < end:
            time.sleep(0.002)
            await asyncio.sleep(0)

    async def answer(seconds: float) -> tuple[float, float]:
        started = time.perf_counter()
        for _ in range(4):
            await asyncio.sleep(seconds)
        ended = time.perf_counter()
        return ended - started, probe.signals.delays.answer_seconds(started, ended)

    async def main() -> tuple[tuple[float, float], tuple[float, float]]:
        async with monitor_loop(FAST, probe.signals):
            await until(lambda: beats(probe) > 2)
            slow = await answer(0.1)
            end = time.perf_counter() + 2.0
            parts = [asyncio.create_task(part(end)) for _ in range(60)]
            kept = await answer(0.001)
            await asyncio.wait(parts)
            return slow, kept

    (slow, slow_answer), (kept, kept_answer) = run(main())
    assert slow_answer >= 0.9 * slow
    assert kept >= 0.4
    assert kept_answer < 0.3 * kept
