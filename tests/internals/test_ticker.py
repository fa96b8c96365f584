"""The ticker: a chain of timers that survives failures and leaves nothing behind."""

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from otel_fastperf.internals.ticker import ticking

pytestmark = pytest.mark.anyio

_VARIABLE: ContextVar[str] = ContextVar("variable", default="none")


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)


def _unexpected(error: Exception) -> None:
    raise error


async def test_the_ticker_ticks_until_the_with_block_ends() -> None:
    late: list[float] = []
    with ticking(0.001, late.append, _unexpected):
        await until(lambda: len(late) >= 5)
    ticks = len(late)
    await asyncio.sleep(0.05)
    assert len(late) == ticks
    assert min(late) >= 0


async def test_a_tick_gets_its_lateness() -> None:
    late: list[float] = []
    with ticking(0.01, late.append, _unexpected):
        time.sleep(0.3)
        await until(lambda: late)
    assert late[0] >= 0.28


async def test_a_failing_tick_is_reported_and_followed_by_the_next() -> None:
    failures: list[Exception] = []
    with ticking(0.001, lambda _late: 1 / 0, failures.append):
        await until(lambda: len(failures) >= 3)
    assert {type(failure) for failure in failures} == {ZeroDivisionError}


async def test_a_tick_can_stop_the_ticker() -> None:
    ticks: list[float] = []
    done = asyncio.Event()

    def tick(late: float) -> None:
        ticks.append(late)
        block.__exit__(None, None, None)
        done.set()

    block = ticking(0.001, tick, _unexpected)
    block.__enter__()
    await done.wait()
    await asyncio.sleep(0.05)
    assert len(ticks) == 1


async def test_a_tick_does_not_run_in_the_context_of_the_start() -> None:
    seen: list[str] = []
    _VARIABLE.set("the starter's")
    with ticking(0.001, lambda _late: seen.append(_VARIABLE.get()), _unexpected):
        await until(lambda: seen)
    assert seen[0] == "none"


async def test_the_ticker_is_not_a_task() -> None:
    before = asyncio.all_tasks()
    with ticking(0.001, lambda _late: None, _unexpected):
        assert asyncio.all_tasks() == before
