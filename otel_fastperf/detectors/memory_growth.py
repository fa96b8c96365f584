"""`memory_growth`: memory that grows, that no full collection frees, and when it hits the limit.

RSS that does not fall is no leak: allocators keep what was used once. Only growth counts, and only that of the *floor*,
which is at any moment the least memory from then on: a burst that comes and goes leaves no trace in it. The floor has
to rise in each third of the window, which tells a leak from a step (a model that was loaded) and from a curve that
flattens (a cache that fills, a pool that opens its connections).

Garbage in cycles looks the same until a full collection frees it, and those are rare. So one must have run before the
last third: growth after it is no garbage of before. None is run for this: on a service with a million objects it stops
every request for a tenth of a second or more. Nor is one needed where a container that a module holds has half of the
growth: that is no garbage. Where none has run for `PATIENT` windows, or the limit is nearer than that, growth is told
all the same, and that it may be garbage.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import MemorySettings

#: windows for which a full collection is waited for; as much has to be kept of the series
PATIENT: Final = 3

_THIRDS: Final = 3
#: what each third of the window has to have of the growth; an even growth has a third
_LEAST_SHARE: Final = 0.2
#: share of the growth that known containers have to have, so that it is no garbage
_HELD_SHARE: Final = 0.5
#: part of the window that the series has to span; a reading is late now and then
_SPANNED: Final = 0.9
#: readings below which a series is none
_LEAST_SAMPLES: Final = 9

_MIB: Final = 1024 * 1024


class Sample(NamedTuple):
    """Memory at one time."""

    #: seconds, on a clock that never goes back
    at: float
    #: bytes that only this process has (USS)
    used: int
    #: full collections, and requests that have ended, in this process so far
    full_collections: int
    requests: int = 0


class Growing(NamedTuple):
    """A container of the application that has grown meanwhile."""

    #: `shop.pages.pages`
    name: str
    entries: int
    #: entries more than when the window began
    grown: int
    #: bytes that these entries take, estimated from a few of them
    size: int = 0
    #: the line that adds to it, where there is one alone
    call_site: CallSite | None = None


class Surroundings(NamedTuple):
    """What else there is to say when memory has grown."""

    #: bytes until the cgroup's limit; None without one
    headroom: int | None = None
    #: containers of the application that have grown, most first
    growing: tuple[Growing, ...] = ()


def detect_memory_growth(
    samples: Sequence[Sample], settings: MemorySettings, around: Surroundings
) -> Iterator[Finding]:
    """Growth of at least `settings.growth_bytes` in the last `settings.growth_window` seconds, as one finding."""
    window = _last(samples, settings.growth_window)
    growth = _steady(window, settings)
    if growth <= 0:
        return
    seconds = window[-1].at - window[0].at
    rate = growth / seconds
    left = None if around.headroom is None else around.headroom / rate
    survived = _collections_before_last_third(window)
    held = sum(each.size for each in around.growing) >= _HELD_SHARE * growth
    if not survived and not held and not _is_told_anyway(samples, settings, left):
        return
    yield _finding(window, growth, left, around, survived=survived, settings=settings)


def steady_growth(samples: Sequence[Sample], settings: MemorySettings) -> int:
    """Bytes by which memory has grown in the last window, if it has grown throughout; else 0."""
    return _steady(_last(samples, settings.growth_window), settings)


def _last(samples: Sequence[Sample], seconds: float) -> Sequence[Sample]:
    """Those of the last so many seconds."""
    return [sample for sample in samples if sample.at > samples[-1].at - seconds * 1.001] if samples else []


def _steady(window: Sequence[Sample], settings: MemorySettings) -> int:
    """Bytes by which the floor has risen; 0 unless it has risen by enough, and in each third."""
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


def _floor(window: Sequence[Sample]) -> list[int]:
    """For each sample the least memory from then on."""
    floor: list[int] = []
    low = window[-1].used
    for sample in reversed(window):
        low = min(low, sample.used)
        floor.append(low)
    floor.reverse()
    return floor


def _end_of(floor: Sequence[int]) -> int:
    """The floor before the last few samples: those may stand on a burst that is still to end."""
    return floor[-max(2, len(floor) // 10)]


def _collections_before_last_third(window: Sequence[Sample]) -> int:
    """Full collections of the window that growth has survived: it has gone on for a third of the window after them."""
    until = window[-1].at - (window[-1].at - window[0].at) / _THIRDS
    before = [sample.full_collections for sample in window if sample.at <= until]
    return before[-1] - before[0]


def _is_told_anyway(samples: Sequence[Sample], settings: MemorySettings, left: float | None) -> bool:
    """No full collection has run: True when it was waited for long enough, or there is no time to wait."""
    patience = PATIENT * settings.growth_window
    if left is not None and left < patience:
        return True
    if samples[-1].at - samples[0].at < patience * _SPANNED:
        return False
    return _steady(samples, settings.model_copy(update={"growth_window": patience})) > 0


def _finding(
    window: Sequence[Sample],
    growth: int,
    left: float | None,
    around: Surroundings,
    *,
    survived: int,
    settings: MemorySettings,
) -> Finding:
    seconds = window[-1].at - window[0].at
    culprit = around.growing[0] if around.growing else None
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
    if around.headroom is not None and left is not None:
        evidence["headroom_bytes"] = around.headroom
        evidence["forecast_seconds"] = round(left)
    if around.growing:
        evidence["growing"] = tuple(
            f"{each.name}: {each.entries:,} entries, {each.grown:,} more" for each in around.growing
        )
    return Finding(
        kind=Kind.MEMORY_GROWTH,
        severity=Severity.CRITICAL if left is not None and left < settings.forecast else Severity.WARNING,
        subject=culprit.name if culprit is not None else "process",
        message=_message(window, growth, left, around, survived=survived),
        remedy=_remedy(culprit, survived=survived),
        evidence=evidence,
        call_site=culprit.call_site if culprit is not None else None,
    )


def _message(window: Sequence[Sample], growth: int, left: float | None, around: Surroundings, *, survived: int) -> str:
    seconds = window[-1].at - window[0].at
    message = (
        f"Memory has grown by {growth / _MIB:,.0f} MiB in {_duration(seconds)}, {growth / _MIB / seconds * 60:,.1f} MiB"
        f" a minute, to {window[-1].used / _MIB:,.0f} MiB"
    )
    if survived:
        message += f", and {survived} full collections have not freed it."
    elif around.growing:
        message += "."
    else:
        message += "; no full collection has run meanwhile, so part of it may be garbage in cycles."
    if left is not None:
        message += f" The limit is hit in {_duration(left)}."
    if around.growing:
        worst = around.growing[0]
        message += f" {worst.name} has {worst.entries:,} entries, {worst.grown:,} more."
    return message


def _remedy(culprit: Growing | None, *, survived: int) -> str:
    if culprit is not None:
        return (
            f"Give {culprit.name} a limit, such as `cachetools.TTLCache(maxsize=1024, ttl=60)` in place of a plain"
            " container, or remove entries when they are no longer needed."
        )
    first = "" if survived else "Look whether `gc.collect()` frees it. "
    return (
        f"{first}Find the lines that allocate it with `telemetry.allocations(10)`; then give the cache or list that"
        " keeps it a limit, and stream what is large."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
