"""`memory_growth`: memory grows steadily and no full collection frees it; with a forecast of when it reaches the limit.

An RSS that does not fall is not a leak: allocators keep memory for reuse. Only growth counts, and only growth of the
*floor*: the lowest memory from each moment to the end of the window. Bursts leave no trace in the floor. It must rise
in each third of the window, which distinguishes a leak from a step (a model is loaded) and from a curve that flattens
(a cache fills up, a pool opens its connections).

Garbage in reference cycles looks the same until a full collection frees it, and full collections are rare. So one must
have run before the last third: growth after it cannot be older garbage. The detector never triggers one, because with a
million objects it would stop every request for 0.1 s or more. None is required if collections held by modules make up
half of the growth, since those are not garbage. If none has run for `PATIENT` windows, or the limit will be reached
sooner than that, growth is reported anyway, with a note that it may be garbage.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import MemorySettings

#: windows to wait for a full collection; the series must cover as many
PATIENT: Final = 3

_THIRDS: Final = 3
#: minimum share of the growth in each third of the window; even growth has a third in each
_LEAST_SHARE: Final = 0.2
#: share of the growth in known collections from which it is not considered garbage
_HELD_SHARE: Final = 0.5
#: minimum share of the window that the series spans; readings may be late
_SPANNED: Final = 0.9
#: minimum number of readings in a window
_LEAST_SAMPLES: Final = 9

_MIB: Final = 1024 * 1024


class MemorySample(NamedTuple):
    """Memory at one point in time.

    Attributes:
        at: Time in seconds, on a monotonic clock.
        used: Memory unique to this process (USS), in bytes.
        full_collections: Number of full collections in this process so far.
        requests: Number of requests that have ended in this process so far.
    """

    at: float
    used: int
    full_collections: int
    requests: int = 0


class GrowingCollection(NamedTuple):
    """A dict, list or the like in the application that grew within the window.

    Attributes:
        name: Its qualified name, such as `shop.pages.pages`.
        entries: Number of entries.
        grown: Number of entries added within the window.
        size: Size of the added entries in bytes, estimated from a few of them.
        call_site: The line that adds to it; None unless there is exactly one.
    """

    name: str
    entries: int
    grown: int
    size: int = 0
    call_site: CallSite | None = None


class GrowthContext(NamedTuple):
    """Facts about the process at the time of the growth.

    Attributes:
        headroom: Bytes left until the cgroup's limit; None without a limit.
        growing: Collections of the application that have grown, fastest first.
    """

    headroom: int | None = None
    growing: tuple[GrowingCollection, ...] = ()


def detect_memory_growth(
    samples: Sequence[MemorySample], settings: MemorySettings, context: GrowthContext
) -> Iterator[Finding]:
    """Yield a finding if memory grew steadily by `growth_bytes` or more within the last `growth_window` seconds."""
    window = _last(samples, settings.growth_window)
    growth = _steady(window, settings)
    if growth <= 0:
        return
    seconds = window[-1].at - window[0].at
    rate = growth / seconds
    left = None if context.headroom is None else context.headroom / rate
    survived = _collections_before_last_third(window)
    held = sum(each.size for each in context.growing) >= _HELD_SHARE * growth
    if not survived and not held and not _is_reported_anyway(samples, settings, left):
        return
    yield _finding(window, growth, left, context, survived=survived, settings=settings)


def steady_growth(samples: Sequence[MemorySample], settings: MemorySettings) -> int:
    """Return the growth within the last window in bytes; 0 unless memory grew throughout."""
    return _steady(_last(samples, settings.growth_window), settings)


def _last(samples: Sequence[MemorySample], seconds: float) -> Sequence[MemorySample]:
    """Return the samples of the last `seconds`."""
    return [sample for sample in samples if sample.at > samples[-1].at - seconds * 1.001] if samples else []


def _steady(window: Sequence[MemorySample], settings: MemorySettings) -> int:
    """Return by how many bytes the floor has risen; 0 unless it rose by enough and in each third."""
    if len(window) < _LEAST_SAMPLES or window[-1].at - window[0].at < settings.growth_window * _SPANNED:
        return 0
    floor = _floor(window)
    start, seconds = window[0].at, window[-1].at - window[0].at
    marks = [floor[0]]
    for third in range(1, _THIRDS):
        until = start + seconds * third / _THIRDS
        marks.append(next(low for low, sample in zip(floor, window, strict=True) if sample.at >= until))
    marks.append(_end_of(floor))
    growth = marks[-1] - marks[0]
    if growth < max(1, settings.growth_bytes):
        return 0
    steady = all(later - earlier >= _LEAST_SHARE * growth for earlier, later in pairwise(marks))
    return growth if steady else 0


def _floor(window: Sequence[MemorySample]) -> list[int]:
    """Return for each sample the lowest memory from there to the end."""
    floor: list[int] = []
    low = window[-1].used
    for sample in reversed(window):
        low = min(low, sample.used)
        floor.append(low)
    floor.reverse()
    return floor


def _end_of(floor: Sequence[int]) -> int:
    """Return the floor before the last few samples, which may belong to a burst."""
    return floor[-max(2, len(floor) // 10)]


def _collections_before_last_third(window: Sequence[MemorySample]) -> int:
    """Count the full collections before the last third of the window, in which memory has kept growing."""
    until = window[-1].at - (window[-1].at - window[0].at) / _THIRDS
    before = [sample.full_collections for sample in window if sample.at <= until]
    return before[-1] - before[0]


def _is_reported_anyway(samples: Sequence[MemorySample], settings: MemorySettings, left: float | None) -> bool:
    """Whether to report growth without a full collection: after waiting long enough, or if the limit is close."""
    patience = PATIENT * settings.growth_window
    if left is not None and left < patience:
        return True
    if samples[-1].at - samples[0].at < patience * _SPANNED:
        return False
    return _steady(samples, settings.model_copy(update={"growth_window": patience})) > 0


def _finding(
    window: Sequence[MemorySample],
    growth: int,
    left: float | None,
    context: GrowthContext,
    *,
    survived: int,
    settings: MemorySettings,
) -> Finding:
    seconds = window[-1].at - window[0].at
    culprit = context.growing[0] if context.growing else None
    evidence: dict[str, str | int | float | bool | tuple[str, ...]] = {
        "grown_bytes": growth,
        "mib_per_minute": round(growth / _MIB / seconds * 60, 2),
        "window_seconds": round(seconds, 1),
        "used_bytes": window[-1].used,
        "full_collections": survived,
    }
    requests = window[-1].requests - window[0].requests
    if requests:
        evidence["requests"] = requests
        evidence["bytes_per_request"] = growth // requests
    if context.headroom is not None and left is not None:
        evidence["headroom_bytes"] = context.headroom
        evidence["forecast_seconds"] = round(left)
    if context.growing:
        evidence["growing"] = tuple(
            f"{each.name}: {each.entries:,} entries, {each.grown:,} new" for each in context.growing
        )
    return Finding(
        kind=Kind.MEMORY_GROWTH,
        severity=Severity.CRITICAL if left is not None and left < settings.forecast else Severity.WARNING,
        subject=culprit.name if culprit is not None else "process",
        message=_message(window, growth, left, context, survived=survived),
        remedy=_remedy(culprit, survived=survived),
        evidence=evidence,
        call_site=culprit.call_site if culprit is not None else None,
    )


def _message(
    window: Sequence[MemorySample], growth: int, left: float | None, context: GrowthContext, *, survived: int
) -> str:
    seconds = window[-1].at - window[0].at
    message = (
        f"Memory grew by {growth / _MIB:,.0f} MiB in {_duration(seconds)}, {growth / _MIB / seconds * 60:,.1f} MiB"
        f" a minute, to {window[-1].used / _MIB:,.0f} MiB"
    )
    if survived:
        message += f", and {survived} full {'collection has' if survived == 1 else 'collections have'} not freed it."
    elif context.growing:
        message += "."
    else:
        message += ". No full collection has run since, so part of it may be garbage in reference cycles."
    if left is not None:
        message += f" At this rate it reaches the limit in {_duration(left)}."
    if context.growing:
        worst = context.growing[0]
        message += f" {worst.name} has {worst.entries:,} entries, {worst.grown:,} of them new."
    return message


def _remedy(culprit: GrowingCollection | None, *, survived: int) -> str:
    if culprit is not None:
        return (
            f"Limit {culprit.name}: replace it with `cachetools.TTLCache(maxsize=1024, ttl=60)` or the like, or remove"
            " entries that are no longer needed."
        )
    first = "" if survived else "Check whether `gc.collect()` frees it. "
    return (
        f"{first}Find the lines that allocate it with `telemetry.allocations(10)`. Then limit the cache or list that"
        " holds it, and stream large responses."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
