"""When an event loop last woke up. The tests of the loop monitor cover how long it has been idle."""

import asyncio
import time
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from otel_fastperf.event_loop import clocks as loopclocks
from otel_fastperf.event_loop.clocks import idle_clock, wake_clock


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


def test_the_last_wake_up_of_a_blocked_loop_is_the_start_of_the_block(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        with wake_clock(asyncio.get_running_loop(), no_failure) as woke:
            before = time.perf_counter()
            await asyncio.sleep(0.1)
            began = time.perf_counter()
            time.sleep(0.2)
            assert before + 0.09 <= woke() <= began
            await asyncio.sleep(0.1)
            assert woke() - began >= 0.29

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_a_loop_that_never_idles_wakes_up_at_each_iteration() -> None:
    async def main() -> None:
        with wake_clock(asyncio.get_running_loop(), no_failure) as woke:
            await asyncio.sleep(0)
            first = woke()
            await asyncio.sleep(0)
            assert woke() > first

    # asyncio's own loop: uvloop's clock has a resolution of 1 ms, and older uvicorns leave its policy behind
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def test_both_clocks_of_a_loop_can_be_removed_in_any_order(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        idle, woke = idle_clock(loop, no_failure), wake_clock(loop, no_failure)
        idle.__enter__()
        clock = woke.__enter__()
        idle.__exit__(None, None, None)
        await asyncio.sleep(0.01)
        assert time.perf_counter() - clock() < 5
        woke.__exit__(None, None, None)
        assert "select" not in vars(getattr(loop, "_selector", object))

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def test_an_unknown_kind_of_loop_has_neither_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = []

    def unknown(loop: asyncio.AbstractEventLoop) -> Any:
        raise AttributeError(loop)

    monkeypatch.setattr(loopclocks, "_wake_clock_of", unknown)
    monkeypatch.setattr(loopclocks, "_idle_clock_of", unknown)
    loop = asyncio.new_event_loop()
    with wake_clock(loop, failures.append) as woke, idle_clock(loop, failures.append) as idle:
        assert woke() == -inf
        assert abs(idle() - time.perf_counter()) < 1
    loop.close()
    assert len(failures) == 2
