"""The line that repeats what a frame does: loops, comprehensions, tasks; on every version of Python."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.loops import loop_around

Found = CallSite | None


def repository() -> Found:
    return loop_around(sys._getframe())


def called_once() -> Found:
    return repository()


def attempts() -> Found:
    for _ in range(3):
        try:
            return repository()
        except ValueError:
            continue
    return None


def attempts_until_a_break() -> Found:
    found = None
    while True:
        try:
            found = repository()
            break
        except ValueError:
            continue
    return found


def after_a_loop() -> Found:
    for _ in range(3):
        len("abc")
    return repository()


def a_for_loop() -> Found:
    found = None
    for _ in range(2):
        found = called_once()  # <- here
    return found


def a_while_loop() -> Found:
    found, left = None, 2
    while left:
        left -= 1
        found = called_once()  # <- here
    return found


def a_comprehension() -> Found:
    first, *_ = [called_once() for _ in range(2)]  # <- here
    return first


def a_generator() -> Found:
    return next(called_once() for _ in range(2))  # <- here


def a_loop_around_attempts() -> Found:
    found = None
    for _ in range(2):
        found = attempts()  # <- here
    return found


def a_loop_with_a_context() -> Found:
    found = None
    for _ in range(2):
        with Path(__file__).open():
            found = attempts_until_a_break()  # <- here
    return found


@pytest.mark.parametrize("work", [called_once, attempts, attempts_until_a_break, after_a_loop])
def test_code_that_runs_once_is_in_no_loop(work: Callable[[], Found]) -> None:
    assert work() is None


@pytest.mark.parametrize(
    "work",
    [a_for_loop, a_while_loop, a_comprehension, a_generator, a_loop_around_attempts, a_loop_with_a_context],
)
def test_the_innermost_loop_is_found(work: Callable[[], Found]) -> None:
    assert is_marked(work(), work.__name__)


async def awaiting() -> Found:
    await asyncio.sleep(0)
    return repository()


async def awaited_once() -> Found:
    await asyncio.sleep(0)
    return await awaiting()


async def an_async_loop() -> Found:
    found = None
    for _ in range(2):
        found = await awaiting()  # <- here
    return found


async def items() -> AsyncIterator[int]:
    for number in range(2):
        yield number


async def an_async_for() -> Found:
    found = None
    async for _ in items():
        found = await awaiting()  # <- here
    return found


async def gathered() -> Found:
    return (await asyncio.gather(*(awaiting() for _ in range(2))))[0]  # <- here


async def in_a_task_group() -> Found:
    async with asyncio.TaskGroup() as group:  # <- here
        tasks = [group.create_task(awaiting()) for _ in range(2)]
    return tasks[0].result()


async def waited_for() -> Found:
    tasks = [asyncio.ensure_future(awaiting()) for _ in range(2)]
    done, _ = await asyncio.wait(tasks)  # <- here
    return done.pop().result()


def test_an_await_is_no_loop() -> None:
    assert asyncio.run(awaited_once()) is None


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("work", [an_async_loop, an_async_for, gathered, in_a_task_group, waited_for])
def test_loops_and_parallel_tasks_of_coroutines_are_found(work: Callable[[], Awaitable[Found]], loop: str) -> None:
    async def found() -> Found:
        return await work()

    run = asyncio.run if loop == "asyncio" else pytest.importorskip("uvloop").run
    assert is_marked(run(found()), work.__name__)


def is_marked(site: Found, function: str) -> bool:
    assert site is not None
    assert (site.file, site.function) == (__file__, function)
    return "# <- here" in Path(__file__).read_text().splitlines()[site.line - 1]


def test_the_line_of_an_endpoint_is_found_when_telemetry_notes_its_suspensions() -> None:
    app = FastAPI()
    found: list[Found] = []

    @app.get("/")
    async def endpoint() -> None:
        found.extend(await asyncio.gather(*(awaiting() for _ in range(2))))  # <- here

    with setup_telemetry(app, settings=Settings()), TestClient(app) as client:
        client.get("/")
    assert is_marked(found[0], "endpoint")
