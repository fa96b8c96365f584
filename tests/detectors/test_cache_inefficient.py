"""Which caches are inefficient, and the text of the finding."""

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
        "Cache shop.shipping.shipping_at had 10 hits in its last 500 look-ups (2%). It has 256 entries of at most 256."
    )
    assert "Remove from the key" in finding.remedy
    assert "raise `maxsize`" in finding.remedy
    assert finding.evidence == {"hit_ratio": 0.02, "lookups": 500, "hits": 10, "size": 256, "maxsize": 256}


@pytest.mark.parametrize("hits", [100, 250, 500])
def test_a_cache_with_enough_hits_is_not_found(hits: int) -> None:
    assert found(hits=hits, size=256, grown=0, maxsize=256) == []


def test_too_few_look_ups_yield_no_finding() -> None:
    assert found(lookups=499, hits=0, size=256, grown=0, maxsize=256) == []


@pytest.mark.parametrize("maxsize", [None, 4096])
def test_a_cache_that_is_filling_is_not_found(maxsize: int | None) -> None:
    """Just started, or just cleared."""
    assert found(hits=0, size=500, grown=500, maxsize=maxsize) == []


@pytest.mark.parametrize("maxsize", [None, 100_000])
def test_a_cache_that_never_stops_filling_is_found(maxsize: int | None) -> None:
    (finding,) = found(hits=0, size=2500, grown=500, maxsize=maxsize, lookups_so_far=2500)
    assert "(0%)" in finding.message


def test_a_cache_whose_entries_expire_too_soon_is_found() -> None:
    (finding,) = found(hits=0, size=20, grown=20, maxsize=4096)
    assert "TTL" in finding.remedy


def test_a_cache_of_unknown_size_is_judged_later() -> None:
    """A client of redis."""
    assert found(hits=0) == []
    (finding,) = found(hits=0, lookups_so_far=2500)
    assert finding.message == "Cache shop.shipping.shipping_at had 0 hits in its last 500 look-ups (0%)."


GROWING: dict[str, Any] = {"hits": 400, "size": 12_000, "grown": 100, "growing": 3, "lookups_so_far": 100_000}


def test_a_large_cache_without_a_limit_that_keeps_growing_is_found_despite_its_hits() -> None:
    (finding,) = found(**GROWING)
    assert finding.message == (
        "Cache shop.shipping.shipping_at has no limit and 12,000 entries, 100 of them added in its last 500 look-ups."
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
def test_a_cache_whose_growth_is_limited_is_not_found(healthy: dict[str, Any]) -> None:
    assert found(**{**GROWING, **healthy}) == []
