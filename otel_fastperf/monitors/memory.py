"""Memory unique to this process (USS), the headroom of its cgroup (container), and steady growth.

prometheus_client already exports RSS as `process_resident_memory_bytes`, which counts pages shared between workers once
for each worker. USS excludes shared pages. The RSS of the same reading is measured beside it: two figures of different
moments may contradict each other. Linux only: on other systems, and without a limit, the series are absent.
"""

import gc
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from otel_fastperf.detectors.memory_growth import (
    PATIENT,
    GrowingCollection,
    GrowthContext,
    MemorySample,
    detect_memory_growth,
    steady_growth,
)
from otel_fastperf.internals.cgroups import limiting_cgroups, text_of
from otel_fastperf.memory.growing_collections import adding_line, bytes_of_entry, collection, sizes
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import MemorySettings
from otel_fastperf.signals import Signals

_PROC: Final = Path("/proc/self")

#: cgroup v1 spells "no limit" as the largest number of whole pages
_UNLIMITED: Final = 1 << 60

#: samples that are kept per window
_SAMPLES: Final = 60
#: minimum number of readings per window, whatever the interval
_LEAST_READINGS: Final = 12
#: share of the first window that is left out for start-up and warm-up
_WARM_UP: Final = 1 / 3

#: number of times per window that collection sizes are counted; counting takes milliseconds
_COUNTS: Final = 6
#: most collections that are named, and the minimum share of the growth for each
_MOST_NAMED: Final = 3
_NAMED_SHARE: Final = 0.1


@asynccontextmanager
async def monitor_memory(settings: MemorySettings, signals: Signals) -> AsyncIterator[None]:
    """Read memory at once and then every `settings.interval` seconds, or more often if `growth_window` is short.

    Reads in a background thread, because the kernel walks all pages of the process to compute its USS.
    """
    stop = threading.Event()
    growth = _Growth(settings, signals)
    interval = min(settings.interval, settings.growth_window / _LEAST_READINGS)

    def run() -> None:
        due = time.monotonic()
        while True:
            try:
                growth.add(_measure(signals.metrics, _PROC), time.monotonic())
            except Exception as error:  # noqa: BLE001 - the next reading may succeed
                signals.guard.failed("memory_monitor", error)
            # at fixed times, so that slow readings do not make them fewer; with a pause of at least half an interval
            due = max(due + interval, time.monotonic() + interval / 2)
            if stop.wait(due - time.monotonic()):
                return

    thread = threading.Thread(target=run, name="otel_fastperf-memory", daemon=True)
    forget = signals.findings.add_request_listener(growth.request_ended)
    thread.start()
    try:
        yield
    finally:
        forget()
        # the thread is not joined: this is the event loop, which must not wait for a reading
        stop.set()


class _Usage(NamedTuple):
    """Memory in bytes; None if unknown or without a limit."""

    unique: int | None
    headroom: int | None


def _measure(metrics: Metrics, proc: Path) -> _Usage:
    rollup = text_of(proc / "smaps_rollup")
    unique, resident = unique_bytes(rollup), resident_bytes(rollup)
    if unique is not None:
        metrics.memory_unique.set(unique)
    if resident is not None:
        metrics.memory_resident.set(resident)
    group = tightest(limiting_cgroups("memory", text_of(proc / "cgroup"), text_of(proc / "mountinfo")))
    if group is not None:
        metrics.memory_limit.set(group.limit)
        metrics.memory_headroom.set(group.headroom)
    return _Usage(unique, None if group is None else group.headroom)


class _Growth:
    """The readings, reduced to the lowest one of each short period, and their evaluation."""

    def __init__(self, settings: MemorySettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._samples: deque[MemorySample] = deque(maxlen=PATIENT * _SAMPLES + 1)
        self._period = settings.growth_window / _SAMPLES
        self._requests = 0
        #: time before which nothing is kept; after the warm-up, the time before which nothing is reported
        self._not_before = 0.0
        #: numbers of entries in the application's collections at several times in the window
        self._counts: deque[tuple[float, dict[str, int]]] = deque(maxlen=_COUNTS + 1)

    def request_ended(self, _record: RequestRecord) -> None:
        """Count the request."""
        self._requests += 1

    def add(self, usage: _Usage, now: float) -> None:
        """Add a reading. Report growth, at most once per window."""
        if not self._not_before:
            self._not_before = now + self._settings.growth_window * _WARM_UP
        if usage.unique is None or (now < self._not_before and not self._samples):
            return
        self._keep(MemorySample(now, usage.unique, gc.get_stats()[-1]["collections"], self._requests))
        self._count_entries(now)
        if now >= self._not_before:
            self._judge(usage.headroom, now)

    def _judge(self, headroom: int | None, now: float) -> None:
        growth = steady_growth(self._samples, self._settings)
        if not growth:
            return
        context = GrowthContext(headroom, self._growing(now, _NAMED_SHARE * growth))
        for finding in detect_memory_growth(self._samples, self._settings, context):
            self._not_before = now + self._settings.growth_window
            self._signals.findings.report(finding)

    def _count_entries(self, now: float) -> None:
        if not self._counts or now - self._counts[-1][0] >= self._settings.growth_window / _COUNTS:
            try:
                self._counts.append((now, sizes()))
            except Exception as error:  # noqa: BLE001 - growth is then reported without a collection's name
                self._signals.guard.failed("memory_collections", error)

    def _growing(self, now: float, least: float) -> tuple[GrowingCollection, ...]:
        """Return the collections that account for a considerable part of the growth, largest part first."""
        try:
            before = next((counts for at, counts in self._counts if at >= now - self._settings.growth_window * 1.1), {})
            return _grown(before, sizes(), least)
        except Exception as error:  # noqa: BLE001
            self._signals.guard.failed("memory_collections", error)
            return ()

    def _keep(self, sample: MemorySample) -> None:
        last = self._samples[-1] if self._samples else None
        if last is None or sample.at >= last.at + self._period:
            self._samples.append(sample)
        elif sample.used < last.used:
            self._samples[-1] = sample._replace(at=last.at)


def _grown(before: dict[str, int], after: dict[str, int], least: float) -> tuple[GrowingCollection, ...]:
    """Return the collections that have grown by at least `least` bytes."""
    weighed: list[tuple[float, str, Any]] = []
    for name, entries in after.items():
        grown = entries - before.get(name, 0)
        if grown > 0 and (value := collection(name)) is not None:
            weighed.append((grown * bytes_of_entry(value), name, value))
    weighed.sort(key=lambda each: -each[0])
    return tuple(
        GrowingCollection(name, after[name], after[name] - before.get(name, 0), int(weight), adding_line(name, value))
        for weight, name, value in weighed[:_MOST_NAMED]
        if weight >= least
    )


def unique_bytes(smaps_rollup: str) -> int | None:
    """Sum up the `Private_*` lines of `/proc/<pid>/smaps_rollup`, which is the USS; None without any."""
    kilobytes = re.findall(r"^Private_\w+:\s+(\d+) kB$", smaps_rollup, re.MULTILINE)
    return sum(map(int, kilobytes)) * 1024 if kilobytes else None


def resident_bytes(smaps_rollup: str) -> int | None:
    """The `Rss` line of `/proc/<pid>/smaps_rollup`; None without one."""
    found = re.search(r"^Rss:\s+(\d+) kB$", smaps_rollup, re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


@dataclass(frozen=True, slots=True)
class LimitedGroup:
    """A cgroup with a memory limit.

    Attributes:
        limit: In bytes.
        working_set: Usage in bytes, minus the file cache that the kernel can drop first, as kubelet defines it for
            eviction: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
    """

    limit: int
    working_set: int

    @property
    def headroom(self) -> int:
        """Bytes left until the kernel runs out of memory that is cheap to free."""
        return max(0, self.limit - self.working_set)


def tightest(directories: Iterator[Path]) -> LimitedGroup | None:
    """Return the cgroup that is closest to its limit; None if none has a limit."""
    groups = filter(None, map(limited_group, directories))
    return min(groups, key=lambda group: group.headroom, default=None)


def limited_group(directory: Path) -> LimitedGroup | None:
    """Read the limit of one cgroup, v2 or v1, from its directory; None without a limit or if it cannot be read."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        texts = [text_of(directory / name).strip() for name in (limit, usage, "memory.stat")]
        inactive = re.search(rf"^{cache} (\d+)$", texts[2], re.MULTILINE)
        if texts[0].isdecimal() and int(texts[0]) < _UNLIMITED and texts[1].isdecimal():
            return LimitedGroup(int(texts[0]), max(0, int(texts[1]) - int(inactive[1] if inactive else 0)))
    return None
