"""Which caches are inefficient, and what is said of them."""

from typing import Any

import pytest

from otel_fastperf.detectors.cache_inefficient import CacheUse, detect_cache_inefficient
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.settings import CacheSettings

SETTINGS = CacheSettings(hit_ratio=0.2, lookups=500, unbounded_size=10_000)
LINE = CallSite("/srv/shop/shipping.py", 36, "shipping_at")


def found(**use: Any) -> list[Finding]:
    defaults = {"name": "shop.shipping.shipping_at", "lookups": 500, "hits": 10, "lookups_so_far": 500}
    return list(detect_cache_inefficient(CacheUse(**{**defaults, **use}), SETTINGS))


def test_a_full_cache_that_mostly_misses_is_found_at_its_function() -> None:
    (finding,) = found(size=256, grown=0, maxsize=256, call_site=LINE)
    assert (finding.kind, finding.subject, finding.call_site) == (
        "cache_inefficient",
        "shop.shipping.shipping_at",
        LINE,
    )
    assert finding.message == (
        "Cache shop.shipping.shipping_at answered 10 of its last 500 look-ups (2%); it has 256 entries of at most 256."
    )
    assert "Leave out of the key" in finding.remedy
    assert "raise `maxsize`" in finding.remedy
    assert finding.evidence == {"hit_ratio": 0.02, "lookups": 500, "hits": 10, "size": 256, "maxsize": 256}


@pytest.mark.parametrize("hits", [100, 250, 500])
def test_a_cache_that_answers_enough_is_not(hits: int) -> None:
    assert found(hits=hits, size=256, grown=0, maxsize=256) == []


def test_too_few_look_ups_say_nothing() -> None:
    assert found(lookups=499, hits=0, size=256, grown=0, maxsize=256) == []


@pytest.mark.parametrize("maxsize", [None, 4096])
def test_a_cache_that_fills_misses_each_key_once_and_is_not(maxsize: int | None) -> None:
    """Just started, or just cleared."""
    assert found(hits=0, size=500, grown=500, maxsize=maxsize) == []


@pytest.mark.parametrize("maxsize", [None, 100_000])
def test_a_cache_that_fills_for_ever_is(maxsize: int | None) -> None:
    (finding,) = found(hits=0, size=2500, grown=500, maxsize=maxsize, lookups_so_far=2500)
    assert "(0%)" in finding.message


def test_a_cache_that_forgets_before_it_is_asked_again_is() -> None:
    """Its time to live is too short."""
    (finding,) = found(hits=0, size=20, grown=20, maxsize=4096)
    assert "TTL" in finding.remedy


def test_a_cache_of_unknown_size_is_judged_after_a_while_too() -> None:
    """A client of redis."""
    assert found(hits=0) == []
    (finding,) = found(hits=0, lookups_so_far=2500)
    assert finding.message == "Cache shop.shipping.shipping_at answered 0 of its last 500 look-ups (0%)."


GROWING: dict[str, Any] = {"hits": 400, "size": 12_000, "grown": 100, "growing": 3, "lookups_so_far": 100_000}


def test_a_large_cache_without_a_limit_that_grows_and_grows_is_found_though_it_hits() -> None:
    (finding,) = found(**GROWING)
    assert finding.message == (
        "Cache shop.shipping.shipping_at has no limit and 12,000 entries, 100 more in its last 500 look-ups."
    )
    assert "maxsize" in finding.remedy


@pytest.mark.parametrize(
    "healthy",
    [
        {"maxsize": 20_000},
        {"size": 9_999},
        {"growing": 2},
        {"grown": 10},
        {"grown": 0, "growing": 0},
    ],
    ids=["has a limit", "small", "has just begun", "hardly grows", "does not grow"],
)
def test_a_cache_whose_growth_has_an_end_is_not(healthy: dict[str, Any]) -> None:
    assert found(**{**GROWING, **healthy}) == []
