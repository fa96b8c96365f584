"""Caches are discovered, read periodically, and evaluated after every `lookups` look-ups."""

import asyncio
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from otel_fastperf.caches.registry import Caches
from otel_fastperf.instrumentation.cache import instrument_caches
from otel_fastperf.monitors.cache import monitor_caches
from otel_fastperf.settings import CacheSettings
from tests.conftest import Probe
from tests.monitors.conftest import Run
from tests.threads import new_threads

Until = Callable[[Callable[[], object]], Awaitable[None]]

SETTINGS = CacheSettings(interval=0.1, lookups=20, discover=False)

SHOP = """
import functools

@functools.lru_cache(maxsize=4)
def shipping(product): return product
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of an application."""
    module = ModuleType("judged_shop")
    module.__file__ = str(tmp_path / "judged_shop.py")
    exec(compile(SHOP, module.__file__, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "judged_shop", module)
    return module


def test_a_cached_function_that_mostly_misses_is_found_without_registration(
    run: Run, probe: Probe, until: Until, shop: ModuleType
) -> None:
    caches, numbers = Caches(), iter(range(1_000_000))

    def ask() -> object:
        shop.shipping(next(numbers))
        return probe.findings()

    async def main() -> None:
        settings = CacheSettings(interval=0.1, lookups=20)
        with instrument_caches(caches, probe.signals):
            async with monitor_caches(caches, settings, probe.signals):
                await until(ask)

    run(main())
    finding = next(each for each in probe.findings() if each.subject == "judged_shop.shipping")
    assert finding.kind == "cache_inefficient"
    assert finding.call_site is not None
    assert SHOP.splitlines()[finding.call_site.line - 1] == "@functools.lru_cache(maxsize=4)"


def test_a_cache_with_hits_is_not_found(run: Run, probe: Probe) -> None:
    double = functools.lru_cache(maxsize=64)(lambda number: 2 * number)
    caches = Caches()
    caches.observe(double, "doubles")

    async def main() -> None:
        with instrument_caches(caches, probe.signals):
            async with monitor_caches(caches, SETTINGS, probe.signals):
                for number in range(500):
                    double(number % 50)
                    await asyncio.sleep(0.002)

    run(main())
    assert probe.findings() == ()


def test_the_look_ups_that_fill_a_cache_yield_no_finding(run: Run, probe: Probe) -> None:
    double = functools.lru_cache(maxsize=64)(lambda number: 2 * number)
    caches = Caches()
    caches.observe(double, "doubles")

    async def main() -> None:
        with instrument_caches(caches, probe.signals):
            async with monitor_caches(caches, SETTINGS, probe.signals):
                for number in range(60):
                    double(number)
                await asyncio.sleep(0.5)

    run(main())
    assert probe.findings() == ()


def test_clearing_a_cache_starts_a_new_period(run: Run, probe: Probe, until: Until) -> None:
    double = functools.lru_cache(maxsize=4)(lambda number: 2 * number)
    caches = Caches()
    caches.observe(double, "doubles")

    async def main() -> None:
        with instrument_caches(caches, probe.signals):
            async with monitor_caches(caches, SETTINGS, probe.signals):
                for number in range(1000):
                    double(number % 2)
                await asyncio.sleep(0.3)
                double.cache_clear()
                numbers = iter(range(1_000_000))
                await until(lambda: double(next(numbers)) is None or probe.findings())

    run(main())
    assert probe.findings()[0].subject == "doubles"


def test_the_monitor_stops_completely(run: Run, probe: Probe) -> None:
    async def main() -> None:
        threads, tasks = threading.enumerate(), asyncio.all_tasks()
        async with monitor_caches(Caches(), SETTINGS, probe.signals):
            pass
        assert (new_threads(threads), asyncio.all_tasks()) == ([], tasks)

    run(main())


def test_a_failed_reading_is_counted_and_the_next_one_is_made(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = Caches()
    monkeypatch.setattr(caches, "states", None)

    async def main() -> None:
        async with monitor_caches(caches, SETTINGS, probe.signals):
            await until(lambda: len(probe.failures) > 2)

    run(main())
    assert set(probe.failures) == {"cache_monitor"}
