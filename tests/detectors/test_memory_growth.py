"""Which series of memory readings are steady growth."""

import math
import random
from collections.abc import Callable

import pytest

from otel_fastperf.detectors.memory_growth import (
    GrowingCollection,
    GrowthContext,
    MemorySample,
    detect_memory_growth,
)
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import MemorySettings

MIB = 1024 * 1024
SETTINGS = MemorySettings(growth_window=600, growth_bytes=50 * MIB, forecast=3600)

#: memory in MiB at a time in seconds
Curve = Callable[[float], float]
#: number of full collections until a time
Collections = Callable[[float], int]


def often(at: float) -> int:
    return int(at // 60)


def never(at: float) -> int:
    return 0


def series(curve: Curve, *, seconds: float = 600, collections: Collections = often) -> list[MemorySample]:
    return [MemorySample(at, int(curve(at) * MIB), collections(at), int(at)) for at in range(0, int(seconds) + 1, 10)]


def found(
    curve: Curve,
    *,
    seconds: float = 600,
    collections: Collections = often,
    headroom: float | None = None,
    growing: tuple[GrowingCollection, ...] = (),
) -> list[Finding]:
    context = GrowthContext(None if headroom is None else int(headroom * MIB), growing)
    return list(detect_memory_growth(series(curve, seconds=seconds, collections=collections), SETTINGS, context))


def leak(at: float) -> float:
    """10 MiB a minute."""
    return 200 + at / 6


def test_steady_growth_that_full_collections_do_not_free_is_found() -> None:
    (finding,) = found(leak)
    assert (finding.kind, finding.severity, finding.subject) == ("memory_growth", Severity.WARNING, "process")
    assert finding.message.startswith("Memory grew by 9")
    assert "full collections have not freed it" in finding.message
    assert "telemetry.allocations(" in finding.remedy
    assert finding.evidence["mib_per_minute"] == pytest.approx(10, rel=0.1)
    assert finding.evidence["bytes_per_request"] == pytest.approx(MIB / 6, rel=0.1)
    assert "forecast_seconds" not in finding.evidence


@pytest.mark.parametrize(
    "curve",
    [
        lambda at: leak(at) + 80 * (at % 50 == 0),
        lambda at: leak(at) + random.Random(at).uniform(0, 15),
        lambda at: 200 + 20 * (at // 100),
        lambda at: leak(at) + 30 * abs(math.sin(at / 20)),
    ],
    ids=["with bursts", "noisy", "in small steps", "in waves"],
)
def test_growth_is_found_under_bursts_and_noise(curve: Curve) -> None:
    assert len(found(curve)) == 1


HEALTHY: dict[str, Curve] = {
    "flat": lambda at: 300,
    "noisy": lambda at: 300 + random.Random(at).uniform(-40, 40),
    "too little": lambda at: 200 + at / 15,
    "falling": lambda at: 500 - at / 6,
    "saw-tooth of big requests": lambda at: 200 + (at % 60) * 4,
    "saw-tooth over half a window": lambda at: 200 + (at % 300) / 2,
    "one step": lambda at: 200 if at < 300 else 400,
    "two steps": lambda at: 200 + 100 * (at >= 100) + 100 * (at >= 250),
    "a step at the very end": lambda at: 200 if at < 560 else 500,
    "warm-up that flattens": lambda at: 200 + 300 * (1 - math.exp(-at / 150)),
    "a cache that was filled": lambda at: 200 + min(at, 380) / 2,
    "a burst at the end": lambda at: 200 + max(0, at - 400),
    "peak in the middle": lambda at: 200 + 150 * math.sin(at / 600 * math.pi),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_curve_yields_no_finding(name: str) -> None:
    assert found(HEALTHY[name]) == []


@pytest.mark.parametrize("seconds", [0, 50, 300, 530])
def test_a_series_shorter_than_the_window_yields_no_finding(seconds: float) -> None:
    assert found(leak, seconds=seconds) == []


def test_an_empty_series_yields_no_finding() -> None:
    assert list(detect_memory_growth([], SETTINGS, GrowthContext())) == []


def test_only_the_last_window_counts() -> None:
    """Memory grew, but has stopped growing."""
    assert found(lambda at: min(200 + at / 6, 300), seconds=1400) == []


def test_growth_until_a_full_collection_is_garbage() -> None:
    """A collection frees it; the allocator keeps the memory and reuses it."""
    assert found(lambda at: 200 + min(at, 300) / 3, collections=lambda at: int(at >= 300)) == []


def test_without_a_full_collection_growth_is_not_reported_at_first() -> None:
    assert found(leak, collections=never) == []
    assert found(leak, collections=lambda at: int(at > 500)) == []


def test_after_three_windows_without_a_full_collection_it_is_reported_as_possible_garbage() -> None:
    (finding,) = found(leak, seconds=1800, collections=never)
    assert "No full collection has run since" in finding.message
    assert finding.remedy.startswith("Check whether `gc.collect()` frees it.")
    assert finding.evidence["full_collections"] == 0


def test_a_limit_that_is_near_does_not_wait_for_a_full_collection() -> None:
    (finding,) = found(leak, collections=never, headroom=100)
    assert finding.severity is Severity.CRITICAL


@pytest.mark.parametrize(
    ("headroom", "severity"), [(5000, Severity.WARNING), (500, Severity.CRITICAL), (0, Severity.CRITICAL)]
)
def test_the_time_to_the_limit_is_forecast_and_a_short_one_is_critical(headroom: float, severity: Severity) -> None:
    """At 10 MiB a minute, 600 MiB take an hour."""
    (finding,) = found(leak, headroom=headroom)
    assert finding.severity is severity
    assert finding.evidence["forecast_seconds"] == pytest.approx(headroom * 6, rel=0.1)
    assert "it reaches the limit in" in finding.message


def test_a_collection_that_has_grown_is_named() -> None:
    line = CallSite("/srv/shop/pages.py", 27, "page")
    (finding,) = found(leak, growing=(GrowingCollection("shop.pages.pages", 300, 200, 90 * MIB, line),))
    assert (finding.subject, finding.call_site) == ("shop.pages.pages", line)
    assert finding.message.endswith("shop.pages.pages has 300 entries, 200 of them new.")
    assert finding.remedy.startswith("Limit shop.pages.pages: ")
    assert finding.evidence["growing"] == ("shop.pages.pages: 300 entries, 200 new",)


def test_growth_in_a_collection_needs_no_full_collection() -> None:
    (finding,) = found(leak, collections=never, growing=(GrowingCollection("shop.pages.pages", 300, 200, 90 * MIB),))
    assert "garbage" not in finding.message


def test_a_collection_with_a_small_part_of_the_growth_does_need_one() -> None:
    assert found(leak, collections=never, growing=(GrowingCollection("shop.pages.pages", 300, 200, 20 * MIB),)) == []
