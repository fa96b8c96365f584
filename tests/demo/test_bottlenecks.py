"""Each faulty endpoint has its fault and its twin does not, measured without telemetry.

Twins are timed several times and the best time counts, because a busy machine can make anything slow.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event

from demo.bottlenecks import (
    cache_inefficient,
    large_result,
    lock_wait,
    memory_growth,
    n_plus_one,
    pool_wait,
    slow_commit,
    slow_middleware,
    threadpool_wait,
)
from demo.catalogue import CATALOGUE, Bottleneck
from demo.database import SMALL_POOL
from demo.models import Visit
from demo.partner import ANSWER_SECONDS, CONNECT_SECONDS
from demo.service import THREADS

pytestmark = pytest.mark.anyio

every_bottleneck = pytest.mark.parametrize("bottleneck", CATALOGUE, ids=lambda bottleneck: bottleneck.name)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


async def call(shop: httpx.AsyncClient, path: str, times: int = 1) -> float:
    """Return the seconds until all of `times` concurrent requests are answered with 200."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(shop.get(path) for _ in range(times)))
    assert {answer.status_code for answer in answers} == {200}
    return time.perf_counter() - started


async def best(measure: Callable[[], Awaitable[float]], times: int = 5) -> float:
    """Return the lowest of several measurements."""
    return min([await measure() for _ in range(times)])


@dataclass
class Statements:
    """Durations of SQL statements, and whether a synchronous driver ran them on the event loop."""

    seconds: list[float] = field(default_factory=list)
    blocked_the_loop: list[bool] = field(default_factory=list)


@contextmanager
def statements_seen() -> Iterator[Statements]:
    seen = Statements()

    def before(connection: Any, _cursor: Any, _text: Any, _parameters: Any, context: Any, _many: Any) -> None:
        context.began = time.perf_counter()
        seen.blocked_the_loop.append(asyncio._get_running_loop() is not None and not connection.dialect.is_async)

    def after(_connection: Any, _cursor: Any, _text: Any, _parameters: Any, context: Any, _many: Any) -> None:
        seen.seconds.append(time.perf_counter() - context.began)

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", before)
        event.remove(Engine, "after_cursor_execute", after)


async def longest_block(shop: httpx.AsyncClient, path: str) -> float:
    """Return the longest time for which the event loop ran nothing else while it served the path."""
    blocks = [0.0]

    async def heartbeat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            blocks.append(time.perf_counter() - before)

    beating = asyncio.create_task(heartbeat())
    await asyncio.sleep(0)
    await call(shop, path)
    await asyncio.sleep(0.002)
    beating.cancel()
    return max(blocks)


@every_bottleneck
async def test_both_twins_give_the_same_answer(shop: httpx.AsyncClient, bottleneck: Bottleneck) -> None:
    faulty, fixed = await shop.get(bottleneck.faulty), await shop.get(bottleneck.fixed)
    assert faulty.status_code == fixed.status_code == 200
    if bottleneck.name != "blocking-cpu":  # the result depends on how far the search gets in the time it has
        assert faulty.json() == fixed.json()


@every_bottleneck
def test_the_line_to_blame_exists(bottleneck: Bottleneck) -> None:
    file, number = bottleneck.line()
    assert bottleneck.code in Path(file).read_text().splitlines()[number - 1]


async def test_the_faulty_list_runs_a_statement_per_row(shop: httpx.AsyncClient) -> None:
    with statements_seen() as faulty:
        await call(shop, "/slow/n-plus-one")
    with statements_seen() as fixed:
        await call(shop, "/fast/n-plus-one")
    assert len(faulty.seconds) == 51
    assert len(fixed.seconds) == 2


@on_sqlite
@pytest.mark.parametrize("name", ["blocking-call", "blocking-cpu"])
async def test_the_faulty_endpoint_blocks_the_event_loop(shop: httpx.AsyncClient, name: str) -> None:
    slow = await longest_block(shop, f"/slow/{name}")
    assert slow >= 0.15
    assert await best(lambda: longest_block(shop, f"/fast/{name}")) < slow / 2


async def test_the_faulty_endpoint_runs_a_synchronous_statement_on_the_loop(shop: httpx.AsyncClient) -> None:
    with statements_seen() as faulty:
        await call(shop, "/slow/sync-db-on-loop")
    with statements_seen() as fixed:
        await call(shop, "/fast/sync-db-on-loop")
    assert faulty.blocked_the_loop == [True]
    assert fixed.blocked_the_loop == [False]
    with statements_seen() as slow:
        await call(shop, "/slow/slow-query")
    assert max(faulty.seconds) < max(slow.seconds) / 2


async def test_the_faulty_query_is_slow(shop: httpx.AsyncClient) -> None:
    with statements_seen() as faulty:
        await call(shop, "/slow/slow-query")
    assert len(faulty.seconds) == 1
    assert faulty.seconds[0] > 0.5

    with statements_seen() as fixed:
        await best(lambda: call(shop, "/fast/slow-query"))
    assert min(fixed.seconds) < faulty.seconds[0] / 2


async def test_the_faulty_endpoint_loads_thousands_of_objects(shop: httpx.AsyncClient) -> None:
    with rows_loaded() as faulty:
        slow = await call(shop, "/slow/large-result")
    with rows_loaded() as fixed:
        fast = await best(lambda: call(shop, "/fast/large-result"))
    assert len(faulty) >= large_result.FEWEST_ROWS
    assert not fixed
    assert fast < slow / 2


@contextmanager
def rows_loaded() -> Iterator[list[None]]:
    seen: list[None] = []

    def loaded(_visit: Visit, _context: Any) -> None:
        seen.append(None)

    event.listen(Visit, "load", loaded)
    try:
        yield seen
    finally:
        event.remove(Visit, "load", loaded)


@on_sqlite
async def test_requests_wait_for_the_lock_at_the_faulty_endpoint(shop: httpx.AsyncClient) -> None:
    slow = await call(shop, "/slow/lock-wait", 4)
    assert slow >= 4 * lock_wait.CARRIER_SECONDS
    assert await best(lambda: call(shop, "/fast/lock-wait", 4)) < slow / 2


async def test_the_faulty_endpoint_commits_again_and_again(shop: httpx.AsyncClient) -> None:
    with commits_seen() as faulty:
        await call(shop, "/slow/slow-commit")
    with commits_seen() as fixed:
        await call(shop, "/fast/slow-commit")
    assert (len(faulty), len(fixed)) == (slow_commit.ROWS // slow_commit.PORTION, 1)


@contextmanager
def commits_seen() -> Iterator[list[None]]:
    seen: list[None] = []

    def commit(_connection: Connection) -> None:
        seen.append(None)

    event.listen(Engine, "commit", commit)
    try:
        yield seen
    finally:
        event.remove(Engine, "commit", commit)


async def test_requests_wait_for_a_connection_at_the_faulty_endpoint(shop: httpx.AsyncClient) -> None:
    at_once = 4 * SMALL_POOL
    slow = await call(shop, "/slow/pool-wait", at_once)
    assert slow >= 4 * pool_wait.PAYMENT_SECONDS
    assert await best(lambda: call(shop, "/fast/pool-wait", at_once)) < slow * 3 / 4


@on_sqlite
async def test_requests_wait_for_a_thread_at_the_faulty_endpoint(shop: httpx.AsyncClient) -> None:
    at_once = 3 * THREADS
    slow = await call(shop, "/slow/threadpool-wait", at_once)
    assert slow >= 3 * threadpool_wait.PRINTER_SECONDS
    assert await best(lambda: call(shop, "/fast/threadpool-wait", at_once)) < slow * 2 / 3


@on_sqlite
async def test_the_faulty_middleware_is_slow(shop: httpx.AsyncClient) -> None:
    faulty, fixed = await shop.get("/slow/slow-middleware"), await shop.get("/fast/slow-middleware")
    assert faulty.headers[slow_middleware.HEADER] == fixed.headers[slow_middleware.HEADER]
    assert slow_middleware.HEADER not in (await shop.get("/health")).headers

    slow = await best(lambda: call(shop, "/slow/slow-middleware"))
    assert await best(lambda: call(shop, "/fast/slow-middleware")) < slow / 4


@on_sqlite
async def test_memory_grows_with_each_request_of_the_faulty_endpoint(shop: httpx.AsyncClient) -> None:
    before = len(memory_growth.pages)
    await call(shop, "/slow/memory-growth", 10)
    await call(shop, "/fast/memory-growth", 10)
    assert len(memory_growth.pages) == before + 10
    assert memory_growth.recent_page.cache_info().currsize <= 4
    memory_growth.pages.clear()


@on_sqlite
async def test_the_faulty_endpoint_causes_a_long_pause_of_the_garbage_collector(shop: httpx.AsyncClient) -> None:
    started, longest = 0.0, 0.0

    def pause(phase: str, _info: dict[str, int]) -> None:
        nonlocal started, longest
        if phase == "start":
            started = time.perf_counter()
        else:
            longest = max(longest, time.perf_counter() - started)

    async def longest_pause(path: str) -> float:
        nonlocal longest
        longest = 0.0
        await call(shop, path)
        return longest

    gc.callbacks.append(pause)
    try:
        slow = await longest_pause("/slow/gc-pause")
        assert slow > 0.03
        assert await best(lambda: longest_pause("/fast/gc-pause")) < slow / 2
    finally:
        gc.callbacks.remove(pause)


@on_sqlite
async def test_the_faulty_cache_never_hits(shop: httpx.AsyncClient) -> None:
    cache_inefficient.shipping.cache_clear()
    for _ in range(3):
        await call(shop, "/slow/cache-inefficient")
        await call(shop, "/fast/cache-inefficient")
    assert cache_inefficient.shipping_at.cache_info().hits == 0
    assert cache_inefficient.shipping.cache_info()[:2] == (40, 20)


async def test_one_call_takes_the_place_of_many(shop: httpx.AsyncClient) -> None:
    slow = await call(shop, "/slow/n-plus-one-calls")
    assert slow >= len(n_plus_one.PRODUCTS) * ANSWER_SECONDS["warehouse"]
    assert await best(lambda: call(shop, "/fast/n-plus-one-calls")) < slow / 2


async def test_an_answer_that_is_kept_is_not_waited_for(shop: httpx.AsyncClient) -> None:
    assert await call(shop, "/slow/slow-dependency") >= ANSWER_SECONDS["carrier"]
    await call(shop, "/fast/slow-dependency")
    assert await best(lambda: call(shop, "/fast/slow-dependency")) < ANSWER_SECONDS["carrier"] / 2


async def test_calls_at_the_same_time_take_as_long_as_the_longest(shop: httpx.AsyncClient) -> None:
    slow = await call(shop, "/slow/serial-calls")
    assert slow >= 3 * ANSWER_SECONDS["prices"]
    assert await best(lambda: call(shop, "/fast/serial-calls")) < slow * 2 / 3


async def test_a_shared_client_uses_its_connections_again(shop: httpx.AsyncClient) -> None:
    slow = await best(lambda: call(shop, "/slow/client-per-request"))
    assert slow >= CONNECT_SECONDS
    assert await best(lambda: call(shop, "/fast/client-per-request")) < slow - CONNECT_SECONDS / 2
