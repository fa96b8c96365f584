"""Which series of memory readings are growth that will not end by itself."""

import math
import random
from collections.abc import Callable

import pytest

from otel_fastperf.detectors.memory_growth import Growing, Sample, Surroundings, detect_memory_growth
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.settings import MemorySettings

MIB = 1024 * 1024
SETTINGS = MemorySettings(growth_window=600, growth_bytes=50 * MIB, forecast=3600)

#: MiB at a time, in seconds
Curve = Callable[[float], float]
#: full collections by a time
Collections = Callable[[float], int]


def often(at: float) -> int:
    return int(at // 60)


def never(at: float) -> int:
    return 0


def series(curve: Curve, *, seconds: float = 600, collections: Collections = often) -> list[Sample]:
    return [Sample(at, int(curve(at) * MIB), collections(at), int(at)) for at in range(0, int(seconds) + 1, 10)]


def found(
    curve: Curve,
    *,
    seconds: float = 600,
    collections: Collections = often,
    headroom: float | None = None,
    growing: tuple[Growing, ...] = (),
) -> list[Finding]:
    around = Surroundings(None if headroom is None else int(headroom * MIB), growing)
    return list(detect_memory_growth(series(curve, seconds=seconds, collections=collections), SETTINGS, around))


def leak(at: float) -> float:
    """10 MiB a minute."""
    return 200 + at / 6


def test_steady_growth_that_full_collections_do_not_free_is_found() -> None:
    (finding,) = found(leak)
    assert (finding.kind, finding.severity, finding.subject) == ("memory_growth", Severity.WARNING, "process")
    assert finding.message.startswith("Memory has grown by 9")
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
def test_growth_is_seen_through_what_lies_over_it(curve: Curve) -> None:
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
def test_what_is_healthy_is_silent(name: str) -> None:
    assert found(HEALTHY[name]) == []


@pytest.mark.parametrize("seconds", [0, 50, 300, 530])
def test_a_series_that_is_shorter_than_the_window_says_nothing(seconds: float) -> None:
    assert found(leak, seconds=seconds) == []


def test_no_series_says_nothing() -> None:
    assert list(detect_memory_growth([], SETTINGS, Surroundings())) == []


def test_only_the_last_window_counts() -> None:
    """It grew, and grows no longer."""
    assert found(lambda at: min(200 + at / 6, 300), seconds=1400) == []


def test_growth_until_a_full_collection_is_garbage() -> None:
    """A collection frees it; the allocator keeps the memory, and fills it again."""
    assert found(lambda at: 200 + min(at, 300) / 3, collections=lambda at: int(at >= 300)) == []


def test_without_a_full_collection_growth_is_not_told_at_first() -> None:
    assert found(leak, collections=never) == []
    assert found(leak, collections=lambda at: int(at > 500)) == []


def test_after_three_windows_without_a_full_collection_it_is_and_that_it_may_be_garbage() -> None:
    (finding,) = found(leak, seconds=1800, collections=never)
    assert "no full collection has run meanwhile" in finding.message
    assert finding.remedy.startswith("Look whether `gc.collect()` frees it.")
    assert finding.evidence["full_collections"] == 0


def test_where_the_limit_is_near_a_full_collection_is_not_waited_for() -> None:
    (finding,) = found(leak, collections=never, headroom=100)
    assert finding.severity is Severity.CRITICAL


@pytest.mark.parametrize(
    ("headroom", "severity"), [(5000, Severity.WARNING), (500, Severity.CRITICAL), (0, Severity.CRITICAL)]
)
def test_the_way_to_the_limit_is_told_and_a_short_one_is_critical(headroom: float, severity: Severity) -> None:
    """At 10 MiB a minute, 600 MiB take an hour."""
    (finding,) = found(leak, headroom=headroom)
    assert finding.severity is severity
    assert finding.evidence["forecast_seconds"] == pytest.approx(headroom * 6, rel=0.1)
    assert "The limit is hit in" in finding.message


def test_a_container_that_has_grown_is_named() -> None:
    line = CallSite("/srv/shop/pages.py", 27, "page")
    (finding,) = found(leak, growing=(Growing("shop.pages.pages", 300, 200, 90 * MIB, line),))
    assert (finding.subject, finding.call_site) == ("shop.pages.pages", line)
    assert finding.message.endswith("shop.pages.pages has 300 entries, 200 more.")
    assert finding.remedy.startswith("Give shop.pages.pages a limit")
    assert finding.evidence["growing"] == ("shop.pages.pages: 300 entries, 200 more",)


def test_what_a_container_holds_is_no_garbage_whether_a_full_collection_has_run_or_not() -> None:
    (finding,) = found(leak, collections=never, growing=(Growing("shop.pages.pages", 300, 200, 90 * MIB),))
    assert "garbage" not in finding.message


def test_a_container_with_a_small_part_of_the_growth_does_not_say_so() -> None:
    assert found(leak, collections=never, growing=(Growing("shop.pages.pages", 300, 200, 20 * MIB),)) == []
