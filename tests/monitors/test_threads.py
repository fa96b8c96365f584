"""anyio's thread pool, seen through an app with `def` endpoints."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from types import SimpleNamespace

import anyio
import httpx
import pytest
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from opentelemetry.trace import INVALID_SPAN
from starlette.responses import PlainTextResponse

from otel_fastperf.monitors import threads as threads_module
from otel_fastperf.monitors.threads import monitor_threads
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.settings import ThreadsSettings
from otel_fastperf.signals import Block
from tests.conftest import Probe
from tests.monitors.conftest import Run

Until = Callable[[Callable[[], object]], Awaitable[None]]

SETTINGS = ThreadsSettings()


def waits(probe: Probe) -> float:
    return probe.value("fastperf_threadpool_wait_seconds_count") or 0.0


def waited(probe: Probe) -> float:
    return probe.value("fastperf_threadpool_wait_seconds_sum") or 0.0


def refreshed(probe: Probe, name: str) -> float | None:
    """The gauge as the next scrape would show it. A scrape runs in its own thread."""
    thread = threading.Thread(target=lambda: list(probe.signals.metrics.refresh()))
    thread.start()
    thread.join()
    return probe.value(name)


@asynccontextmanager
async def shop(endpoint: Callable[[], None]) -> AsyncIterator[httpx.AsyncClient]:
    """An app whose `GET /` runs `endpoint` in a thread of the pool; the pool has two tokens."""
    current_default_thread_limiter().total_tokens = 2
    app = FastAPI()

    @app.get("/", response_class=PlainTextResponse)
    def handler() -> PlainTextResponse:
        endpoint()
        return PlainTextResponse("done")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://shop") as client:
        yield client


def test_the_gauges_show_used_tokens_and_waiting_requests(run: Run, probe: Probe, until: Until) -> None:
    finish = threading.Event()

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(lambda: assert_set(finish)) as client:
            requests = [asyncio.create_task(client.get("/")) for _ in range(6)]
            await until(lambda: refreshed(probe, "fastperf_threadpool_waiting") == 4)
            assert refreshed(probe, "fastperf_threadpool_borrowed") == 2
            assert refreshed(probe, "fastperf_threadpool_limit") == 2
            finish.set()
            responses = await asyncio.gather(*requests)
            assert [response.text for response in responses] == ["done"] * 6
            assert refreshed(probe, "fastperf_threadpool_waiting") == 0
            assert refreshed(probe, "fastperf_threadpool_borrowed") == 0

    run(main())


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)


def test_the_gauges_are_updated_without_scrapes(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "_INTERVAL", 0.01)

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals):
            current_default_thread_limiter().total_tokens = 7
            await until(lambda: probe.value("fastperf_threadpool_limit") == 7)

    run(main())


def test_each_wait_for_a_thread_is_measured(run: Run, probe: Probe) -> None:
    """Six requests of 0.2 s, two at a time: two wait 0 s, two 0.2 s, two 0.4 s."""

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(lambda: time.sleep(0.2)) as client:
            await asyncio.gather(*(client.get("/") for _ in range(6)))

    run(main())
    assert waits(probe) == 6
    assert probe.value("fastperf_threadpool_wait_seconds_bucket", le="0.0005") == 2
    assert waited(probe) >= 1.15


def test_a_request_that_gets_a_thread_at_once_has_a_wait_of_zero(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(lambda: None) as client:
            for _ in range(5):
                await client.get("/")

    run(main())
    assert (waits(probe), waited(probe)) == (5, 0.0)


def test_a_cancelled_wait_is_measured_too(run: Run, probe: Probe, until: Until) -> None:
    finish = threading.Event()

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(lambda: assert_set(finish)) as client:
            requests = [asyncio.create_task(client.get("/")) for _ in range(3)]
            await until(lambda: refreshed(probe, "fastperf_threadpool_waiting") == 1)
            await asyncio.sleep(0.1)
            requests[2].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await requests[2]
            finish.set()
            await asyncio.gather(*requests[:2])
            assert (await client.get("/")).text == "done"
            assert current_default_thread_limiter().borrowed_tokens == 0

    run(main())
    assert waits(probe) == 4
    assert waited(probe) >= 0.09


def test_the_limiter_behaves_as_before(run: Run, probe: Probe) -> None:
    async def main() -> None:
        limiter = current_default_thread_limiter()
        before = repr(type(limiter))
        async with monitor_threads(SETTINGS, probe.signals):
            assert isinstance(limiter, anyio.CapacityLimiter)
            assert repr(type(limiter)) == before
            limiter.total_tokens = 1
            await limiter.acquire_on_behalf_of("somebody")
            with pytest.raises(RuntimeError, match="already holding"):
                await limiter.acquire_on_behalf_of("somebody")
            with pytest.raises(anyio.WouldBlock):
                limiter.acquire_nowait()
            limiter.total_tokens = 2
            async with limiter:
                assert limiter.available_tokens == 0
            limiter.release_on_behalf_of("somebody")
            with pytest.raises(RuntimeError, match="isn't holding"):
                limiter.release()

    run(main())


def test_the_wait_is_observed_in_the_context_of_the_request(run: Run, probe: Probe) -> None:
    current: ContextVar[str] = ContextVar("current")
    seen: list[str] = []

    async def request(name: str) -> None:
        current.set(name)
        await anyio.to_thread.run_sync(lambda: time.sleep(0.01))

    async def main() -> None:
        limiter = current_default_thread_limiter()
        limiter.total_tokens = 1
        async with monitor_threads(SETTINGS, probe.signals):
            listener = SimpleNamespace(begins=lambda: None, waited=lambda _seconds: seen.append(current.get()))
            getattr(limiter, threads_module._LISTENERS).append(listener)
            await asyncio.gather(request("first"), request("second"))
            getattr(limiter, threads_module._LISTENERS).pop()

    run(main())
    assert sorted(seen) == ["first", "second"]


def test_a_victim_of_a_full_pool_is_told_what_occupies_it(run: Run, probe: Probe, until: Until) -> None:
    finish = threading.Event()

    def export() -> None:
        assert_set(finish)

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(export) as client:
            slow = [asyncio.create_task(client.get("/")) for _ in range(2)]
            await until(lambda: refreshed(probe, "fastperf_threadpool_borrowed") == 2)
            victim = asyncio.create_task(served(probe, lambda: anyio.to_thread.run_sync(int)))
            await asyncio.sleep(0.2)
            finish.set()
            await asyncio.gather(victim, *slow)

    run(main())
    (finding,) = probe.findings()
    assert "all of them busy, 2 in handler at monitors/test_threads.py:" in finding.message
    assert finding.call_site is not None
    assert finding.call_site.function == "assert_set"


def test_a_wait_that_a_blocked_loop_explains_is_not_reported(run: Run, probe: Probe, until: Until) -> None:
    """Tokens are given back on the event loop, and requests that piled up behind the block wait for each other."""
    finish = threading.Event()

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals):
            current_default_thread_limiter().total_tokens = 1
            work = partial(anyio.to_thread.run_sync, lambda: assert_set(finish))
            requests = [asyncio.create_task(served(probe, work)) for _ in range(2)]
            await until(lambda: refreshed(probe, "fastperf_threadpool_waiting") == 1)
            finish.set()
            started = time.perf_counter()
            time.sleep(0.2)
            probe.signals.delays.blocks.append(Block(started, time.perf_counter(), None, None))
            await asyncio.gather(*requests)

    run(main())
    assert waited(probe) >= 0.2
    assert not probe.findings()


@pytest.mark.parametrize(("lost", "kinds"), [(0.38, []), (0.05, ["threadpool_wait"])])
def test_a_wait_that_a_busy_machine_explains_is_not_reported(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch, lost: float, kinds: list[str]
) -> None:
    starvation = probe.signals.delays.starvation
    monkeypatch.setattr(starvation, "seconds", lambda start, end: end - start - 0.4 + lost)
    finish = threading.Event()

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals):
            current_default_thread_limiter().total_tokens = 1
            work = partial(anyio.to_thread.run_sync, lambda: assert_set(finish))
            requests = [asyncio.create_task(served(probe, work)) for _ in range(2)]
            await until(lambda: refreshed(probe, "fastperf_threadpool_waiting") == 1)
            await asyncio.sleep(0.4)
            finish.set()
            await asyncio.gather(*requests)

    run(main())
    assert waited(probe) >= 0.4
    assert [finding.kind for finding in probe.findings()] == kinds


async def served(probe: Probe, work: Callable[[], Awaitable[object]]) -> None:
    """A request that does `work`."""
    CURRENT.set(RequestRecord(probe.signals, {"type": "http"}, INVALID_SPAN, time.perf_counter()))
    await work()


def test_the_monitor_stops_completely_and_can_be_restarted(run: Run, probe: Probe) -> None:
    async def main() -> None:
        limiter = current_default_thread_limiter()
        before = type(limiter), asyncio.all_tasks(), list(probe.signals.metrics._refreshers)
        for rounds in (1, 2):
            async with monitor_threads(SETTINGS, probe.signals):
                await anyio.to_thread.run_sync(lambda: None)
            await anyio.to_thread.run_sync(lambda: None)
            assert waits(probe) == rounds
            assert (type(limiter), asyncio.all_tasks(), probe.signals.metrics._refreshers) == before

    run(main())


def test_the_monitor_can_stop_while_a_task_waits(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        limiter = current_default_thread_limiter()
        limiter.total_tokens = 1
        async with monitor_threads(SETTINGS, probe.signals):
            await limiter.acquire_on_behalf_of("somebody")
            waiting = asyncio.create_task(limiter.acquire_on_behalf_of("another"))
            await until(lambda: limiter.statistics().tasks_waiting)
        limiter.release_on_behalf_of("somebody")
        await waiting
        limiter.release_on_behalf_of("another")
        assert limiter.borrowed_tokens == 0

    run(main())


def test_two_monitors_of_one_loop_can_stop_in_any_order(run: Run, probe: Probe) -> None:
    async def main() -> None:
        limiter = current_default_thread_limiter()
        before = type(limiter)
        first, second = AsyncExitStack(), AsyncExitStack()
        await first.enter_async_context(monitor_threads(SETTINGS, probe.signals))
        await second.enter_async_context(monitor_threads(SETTINGS, probe.signals))
        await anyio.to_thread.run_sync(lambda: None)
        await first.aclose()
        await anyio.to_thread.run_sync(lambda: None)
        await second.aclose()
        assert type(limiter) is before

    run(main())
    assert waits(probe) == 3


def test_a_failing_metric_leaks_no_token(run: Run, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.signals.metrics, "threadpool_wait", None)

    async def main() -> None:
        async with monitor_threads(SETTINGS, probe.signals), shop(lambda: None) as client:
            for _ in range(3):
                assert (await client.get("/")).text == "done"
            assert current_default_thread_limiter().borrowed_tokens == 0

    run(main())
    assert probe.failures == ["threadpool_wait"] * 3


def test_a_limiter_whose_class_cannot_be_replaced_is_left_alone(run: Run, probe: Probe) -> None:
    async def main() -> None:
        class Final(type(current_default_thread_limiter())):  # type: ignore[misc]
            """Has no subclasses."""

            def __init_subclass__(cls) -> None:
                raise TypeError

        limiter = Final(1)
        listener = threads_module._WaitListener(limiter, SETTINGS, probe.signals)
        with threads_module._waits_timed(limiter, listener, probe.signals):
            async with limiter:
                assert type(limiter) is Final

    run(main())
    assert probe.failures == ["threadpool_wait"]
    assert waits(probe) == 0
