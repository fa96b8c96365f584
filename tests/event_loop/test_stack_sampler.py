"""Samples that another thread takes of the thread that runs an event loop."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from otel_fastperf.event_loop.stack_sampler import Sight, base_of, look

Main = Callable[["DelayedSampler"], Coroutine[Any, Any, None]]


class DelayedSampler:
    """Take one sample of the loop's thread after a delay."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.base = 0
        self.sights: list[Sight] = []
        # a loop without Python frames: the frame outside of this callback is the one that runs the loop
        self.loop.call_soon(self._note_base)

    def _note_base(self) -> None:
        self.base = base_of(sys._getframe(1))

    def sample_in(self, seconds: float) -> threading.Thread:
        def later() -> None:
            time.sleep(seconds)
            self.sights.append(look(self.loop, self.thread, self.base))

        thread = threading.Thread(target=later)
        thread.start()
        return thread


@pytest.fixture(params=["asyncio", "uvloop"])
def seen(request: pytest.FixtureRequest) -> Callable[[Main], Sight]:
    """Run a coroutine in a loop without `asyncio.run`, and return the sample taken meanwhile."""
    module: Any = pytest.importorskip(request.param, reason=f"{request.param} is not installed")

    def run(main: Main) -> Sight:
        samplers: list[DelayedSampler] = []

        async def with_sampler() -> None:
            samplers.append(DelayedSampler())
            await asyncio.sleep(0.05)
            await main(samplers[0])

        loop = module.new_event_loop()
        loop.run_until_complete(with_sampler())
        loop.close()
        (sight,) = samplers[0].sights
        return sight

    return run


def wait() -> None:
    time.sleep(0.3)


def test_a_waiting_loop_is_idle(seen: Callable[[Main], Sight]) -> None:
    async def main(sampler: DelayedSampler) -> None:
        thread = sampler.sample_in(0.1)
        await asyncio.sleep(0.3)
        thread.join()

    assert seen(main) == Sight(running=True, idle=True)


def test_a_task_that_blocks_the_loop_is_sampled_with_its_frames(seen: Callable[[Main], Sight]) -> None:
    async def main(sampler: DelayedSampler) -> None:
        sampler.sample_in(0.1)
        wait()

    sight = seen(main)
    assert not sight.idle
    assert sight.task is not None
    assert [frame.function for frame in sight.frames][:2] == ["wait", "main"]
    assert sight.called is not None
    assert sight.called.function == "wait"


def test_a_callback_that_blocks_the_loop_is_sampled_without_a_task(seen: Callable[[Main], Sight]) -> None:
    async def main(sampler: DelayedSampler) -> None:
        sampler.sample_in(0.1)
        sampler.loop.call_soon(wait)
        await asyncio.sleep(0.4)

    sight = seen(main)
    assert (sight.idle, sight.task) == (False, None)
    assert sight.frames[0].function == "wait"


def test_a_loop_that_does_not_run_is_sampled_as_not_running(seen: Callable[[Main], Sight]) -> None:
    async def main(sampler: DelayedSampler) -> None:
        loop = asyncio.new_event_loop()
        sampler.sights.append(look(loop, sampler.thread, sampler.base))
        loop.close()

    assert seen(main) == Sight(running=False)


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_the_base_of_a_loop_is_a_frame_that_stays_and_no_frame_of_a_callback(name: str) -> None:
    """The `id` of a frame that has ended is soon another frame's, and a walk would end there without a line."""
    module: Any = pytest.importorskip(name, reason=f"{name} is not installed")
    bases: list[int] = []

    def callback() -> None:
        bases.append(base_of(sys._getframe(1)))

    async def main() -> None:
        for _ in range(3):
            asyncio.get_running_loop().call_soon(callback)
            await asyncio.sleep(0.01)

    loop = module.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    assert set(bases) == ({0} if name == "asyncio" else {id(sys._getframe())})
