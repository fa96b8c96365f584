"""Caches that the app passes or that are discovered have metrics while they are instrumented."""

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest

from otel_fastperf.caches.registry import Caches
from otel_fastperf.errors import SetupError
from otel_fastperf.instrumentation.cache import instrument_caches
from tests.conftest import Probe


def cached() -> Callable[[int], int]:
    @functools.lru_cache(maxsize=4)
    def double(number: int) -> int:
        return 2 * number

    return double


def scrape(probe: Probe) -> None:
    assert list(probe.signals.metrics.refresh()) == []


def series(probe: Probe, cache: str) -> dict[str, float | None]:
    scrape(probe)
    names = ("hits_total", "misses_total", "evictions_total", "size", "max_size")
    return {name: probe.value(f"fastperf_cache_{name}", cache=cache) for name in names}


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_cache_may_be_observed_before_and_after_the_telemetry_starts(probe: Probe, before: bool) -> None:
    caches, double = Caches(), cached()
    if before:
        caches.observe(double, "doubles")
    with instrument_caches(caches, probe.signals):
        if not before:
            caches.observe(double, "doubles")
        for number in (1, 1, 2):
            double(number)
        assert series(probe, "doubles") == {
            "hits_total": 1,
            "misses_total": 2,
            "evictions_total": 0,
            "size": 2,
            "max_size": 4,
        }


def test_counters_continue_when_the_cache_is_cleared(probe: Probe) -> None:
    caches, double = Caches(), cached()
    with instrument_caches(caches, probe.signals):
        caches.observe(double, "doubles")
        double(1), double(1)
        scrape(probe)
        double.cache_clear()  # type: ignore[attr-defined]
        double(1)
        assert series(probe, "doubles") | {"max_size": 0} == {
            "hits_total": 1,
            "misses_total": 2,
            "evictions_total": 0,
            "size": 1,
            "max_size": 0,
        }


def test_unknown_values_are_absent(probe: Probe) -> None:
    caches = Caches()
    unbounded = functools.cache(abs)
    with instrument_caches(caches, probe.signals):
        caches.observe(unbounded, "abs")
        unbounded(-1)
        assert series(probe, "abs") == {
            "hits_total": 0,
            "misses_total": 1,
            "evictions_total": None,
            "size": 1,
            "max_size": None,
        }


def test_the_cache_is_returned_so_that_one_line_can_create_and_observe_it(probe: Probe) -> None:
    double = cached()
    assert Caches().observe(double) is double


def test_a_function_is_named_after_its_module_and_duplicate_names_are_numbered(probe: Probe) -> None:
    caches, first, second = Caches(), cached(), cached()
    with instrument_caches(caches, probe.signals):
        caches.observe(first), caches.observe(second)
        assert [state.name for state in caches.states()] == [
            f"{__name__}.cached.<locals>.double",
            f"{__name__}.cached.<locals>.double 2",
        ]


def test_observing_a_cache_again_renames_it_and_counts_nothing_twice(probe: Probe) -> None:
    caches, double = Caches(), cached()
    with instrument_caches(caches, probe.signals):
        caches.observe(double, "old")
        double(1)
        scrape(probe)
        caches.observe(double, "new")
        double(1)
        assert series(probe, "old")["size"] is None
        assert (series(probe, "new")["hits_total"], len(caches.states())) == (1, 1)


def test_a_deleted_cache_has_no_size(probe: Probe) -> None:
    caches, double = Caches(), cached()
    with instrument_caches(caches, probe.signals):
        caches.observe(double, "doubles")
        double(1)
        assert series(probe, "doubles")["size"] == 1
        del double
        gc.collect()
        assert series(probe, "doubles")["size"] is None
        assert (series(probe, "doubles")["misses_total"], caches.states()) == (1, [])


def test_an_object_is_counted_only_while_it_is_instrumented_and_again_after_a_restart(probe: Probe) -> None:
    kind = pytest.importorskip("cachetools", reason="cachetools is not installed: pip install cachetools").LRUCache
    caches, cache = Caches(), kind(4)
    caches.observe(cache, "mine")
    assert type(cache) is kind
    for total in (1, 2):
        with instrument_caches(caches, probe.signals):
            cache.get("a")
            assert series(probe, "mine")["misses_total"] == total
        assert type(cache) is kind
        cache.get("a")
    assert not probe.signals.metrics._refreshers


def test_an_unknown_object_is_refused(probe: Probe) -> None:
    with pytest.raises(SetupError, match="Remedy"):
        Caches().observe(7)


def test_an_unreadable_cache_affects_no_other_series(probe: Probe) -> None:
    class Broken:
        __qualname__ = "Broken"

        def cache_info(self) -> Any:
            raise RuntimeError("closed")

    caches, broken, double = Caches(), Broken(), cached()
    with instrument_caches(caches, probe.signals):
        caches.observe(broken, "broken")
        caches.observe(double, "doubles")
        assert [state.name for state in caches.states()] == ["doubles"]
    assert set(probe.failures) == {"cache"}


SHOP = """
import functools

@functools.lru_cache(maxsize=8)
def shipping(product): return product

def logged(function):
    @functools.wraps(function)
    def call(*arguments): return function(*arguments)
    return call

@logged
@functools.cache
def price(product): return product

class Rates:
    @staticmethod
    @functools.lru_cache
    def of(country): return country
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of an application."""
    module = ModuleType("found_shop")
    module.__file__ = str(tmp_path / "found_shop.py")
    exec(compile(SHOP, module.__file__, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "found_shop", module)
    return module


def found(caches: Caches) -> set[str]:
    return {state.name for state in caches.states() if state.name.startswith("found_shop")}


def test_cached_functions_of_the_application_are_discovered(probe: Probe, shop: ModuleType) -> None:
    caches = Caches()
    with instrument_caches(caches, probe.signals):
        caches.discover()
        caches.discover()
        assert found(caches) == {"found_shop.shipping", "found_shop.price", "found_shop.Rates.of"}
        shop.shipping(1)
        assert series(probe, "found_shop.shipping")["misses_total"] == 1


def test_a_name_given_by_the_app_is_kept(probe: Probe, shop: ModuleType) -> None:
    caches = Caches()
    caches.observe(shop.shipping, "mine")
    with instrument_caches(caches, probe.signals):
        caches.discover()
        assert "found_shop.shipping" not in found(caches)


def test_caches_of_python_and_installed_packages_are_not_discovered(probe: Probe) -> None:
    caches = Caches()
    with instrument_caches(caches, probe.signals):
        caches.discover()
        roots = {state.name.partition(".")[0] for state in caches.states()}
    assert not roots & {"re", "functools", "fastapi", "pydantic", "otel_fastperf", "_pytest", "urllib"}
    assert hasattr(urlsplit, "cache_info")
