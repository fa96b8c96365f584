"""Since when an event loop has been running. The tests of the loop monitor cover how long it has been idle."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from otel_fastperf.event_loop import clocks as loopclocks
from otel_fastperf.event_loop.clocks import idle_clock, run_clock


def _asyncio() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop", reason="uvloop is not installed").new_event_loop()
    return loop


@pytest.fixture(params=[_asyncio, _uvloop], ids=["asyncio", "uvloop"])
def factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    made: Callable[[], asyncio.AbstractEventLoop] = request.param
    return made


def no_failure(error: Exception) -> None:
    raise error


def test_a_blocked_loop_has_run_since_the_start_of_the_block(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        with run_clock(asyncio.get_running_loop(), no_failure) as since:
            assert since is not None
            before = time.perf_counter()
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            time.sleep(0.2)
            assert before + 0.09 <= since() <= began
            await asyncio.sleep(0.1)
            assert since() - began >= 0.29

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_timers_that_code_sets_do_not_move_the_start_of_its_block(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """With uvloop, libuv updates its time when a timer is set."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with run_clock(loop, no_failure) as since:
            assert since is not None
            await asyncio.sleep(0.1)
            first = since()
            time.sleep(0.1)
            loop.call_later(1, print).cancel()
            assert since() == first

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_another_thread_sees_that_a_loop_waits(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        with run_clock(asyncio.get_running_loop(), no_failure) as since:
            assert since is not None

            def look() -> float:
                time.sleep(0.2)
                return time.perf_counter() - since()

            assert await asyncio.to_thread(look) < 0.1

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_an_iteration_of_a_loop_that_never_waits_begins_at_its_own_time(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        with run_clock(asyncio.get_running_loop(), no_failure) as since:
            assert since is not None
            await asyncio.sleep(0)
            first = since()
            time.sleep(0.01)
            await asyncio.sleep(0)
            assert since() > first

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_both_clocks_of_a_loop_can_be_removed_in_any_order(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        idle, running = idle_clock(loop, no_failure), run_clock(loop, no_failure)
        idle.__enter__()
        clock = running.__enter__()
        assert clock is not None
        idle.__exit__(None, None, None)
        await asyncio.sleep(0.01)
        assert time.perf_counter() - clock() < 5
        running.__exit__(None, None, None)
        assert "select" not in vars(getattr(loop, "_selector", object))

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_the_clocks_of_a_loop_can_be_read_when_it_is_closed(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The watchdog's thread may do so. libuv has freed its counters by then: to read them would end the process."""

    async def main() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        clocks = idle_clock(loop, no_failure), run_clock(loop, no_failure)
        opened = clocks[0].__enter__(), clocks[1].__enter__()
        await asyncio.sleep(0.05)
        kept.append(clocks)
        return opened

    kept: list[Any] = []
    with asyncio.Runner(loop_factory=factory) as runner:
        idle, since = runner.run(main())
        waited = idle()
    assert idle() >= waited >= 0.04
    assert since() <= time.perf_counter()


def test_a_loop_may_be_closed_while_another_thread_reads_its_clock(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ended = threading.Event()
    clocks: list[Any] = []

    def read() -> None:
        while not ended.is_set():
            for clock in clocks[-1:]:
                clock()

    async def main() -> None:
        clock = run_clock(asyncio.get_running_loop(), no_failure)
        kept.append(clock)
        clocks.append(clock.__enter__())

    kept: list[Any] = []
    reader = threading.Thread(target=read)
    reader.start()
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(100):
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
    finally:
        sys.setswitchinterval(usual)
        ended.set()
        reader.join()


def test_an_unknown_kind_of_loop_has_neither_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = []

    def unknown(loop: asyncio.AbstractEventLoop) -> Any:
        raise AttributeError(loop)

    monkeypatch.setattr(loopclocks, "_run_clock_of", unknown)
    monkeypatch.setattr(loopclocks, "_idle_clock_of", unknown)
    loop = asyncio.new_event_loop()
    with run_clock(loop, failures.append) as since, idle_clock(loop, failures.append) as idle:
        assert since is None
        assert idle is None
    loop.close()
    assert len(failures) == 2
