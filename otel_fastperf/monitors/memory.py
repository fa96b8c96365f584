"""Memory that is this process's alone, how much room its cgroup (container) leaves, and whether it grows and grows.

RSS is `process_resident_memory_bytes`, prometheus_client's own. It counts pages that are shared with other workers in
each of them; USS counts none of those. Linux only: elsewhere, and without a limit, the series are absent.
"""

import gc
import re
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from otel_fastperf.detectors.memory_growth import (
    PATIENT,
    Growing,
    Sample,
    Surroundings,
    detect_memory_growth,
    steady_growth,
)
from otel_fastperf.findings import Finding
from otel_fastperf.memory.growing_collections import adding_line, bytes_of_entry, container, sizes
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import MemorySettings
from otel_fastperf.signals import Signals

_PROC: Final = Path("/proc/self")

#: cgroup v1 has no word for "no limit", only the largest number of whole pages
_UNLIMITED: Final = 1 << 60

#: samples of a window that are kept
_SAMPLES: Final = 60
#: readings in a window, at least, whatever the interval
_LEAST_READINGS: Final = 12
#: start-up and warm-up take up to this part of the first window
_WARM_UP: Final = 1 / 3

#: times in a window that the entries of the application's containers are counted, in milliseconds
_COUNTS: Final = 6
#: containers that are named, and the share of the growth that each must have to be
_MOST_NAMED: Final = 3
_NAMED_SHARE: Final = 0.1

#: a reading takes milliseconds; one that takes longer is left to end by itself
_JOIN_SECONDS: Final = 1.0


@asynccontextmanager
async def monitor_memory(settings: MemorySettings, signals: Signals) -> AsyncIterator[None]:
    """Read at once and then every `settings.interval` seconds, in a thread: the kernel walks all pages for the USS.

    More often where the window of `memory_growth` is so short that it would have too few readings.
    """
    stop = threading.Event()
    growth = _Growth(settings, signals)
    interval = min(settings.interval, settings.growth_window / _LEAST_READINGS)

    def run() -> None:
        due = time.monotonic()
        while True:
            try:
                growth.look_at(_report(signals.metrics, _PROC), time.monotonic())
            except Exception as error:  # noqa: BLE001 - the next reading may succeed
                signals.guard.failed("memory_monitor", error)
            # by the clock, as long as it leaves a rest: a window has its readings also where each takes long
            due = max(due + interval, time.monotonic() + interval / 2)
            if stop.wait(due - time.monotonic()):
                return

    thread = threading.Thread(target=run, name="otel_fastperf memory", daemon=True)
    forget = signals.findings.add_detector(growth.request_ended)
    thread.start()
    try:
        yield
    finally:
        forget()
        stop.set()
        thread.join(_JOIN_SECONDS)


class _Readings(NamedTuple):
    #: bytes; None where it is not known, or without a limit
    unique: int | None
    headroom: int | None


def _report(metrics: Metrics, proc: Path) -> _Readings:
    unique = unique_bytes(_read(proc / "smaps_rollup"))
    if unique is not None:
        metrics.gauge("fastperf_memory_unique_bytes").set(unique)
    group = tightest(memory_cgroups(_read(proc / "cgroup"), _read(proc / "mountinfo")))
    if group is not None:
        metrics.gauge("fastperf_memory_limit_bytes").set(group.limit)
        metrics.gauge("fastperf_memory_headroom_bytes").set(group.headroom)
    return _Readings(unique, None if group is None else group.headroom)


class _Growth:
    """The series of readings, thinned: the least of each stretch of time is what the detector looks at."""

    def __init__(self, settings: MemorySettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._samples: deque[Sample] = deque(maxlen=PATIENT * _SAMPLES + 1)
        self._stretch = settings.growth_window / _SAMPLES
        self._requests = 0
        #: nothing is kept, and nothing reported, before
        self._not_before = 0.0
        #: entries of the application's containers at some times of the window
        self._counts: deque[tuple[float, dict[str, int]]] = deque(maxlen=_COUNTS + 1)

    def request_ended(self, _record: RequestRecord) -> Iterable[Finding]:
        """A detector by its signature; it counts."""
        self._requests += 1
        return ()

    def look_at(self, readings: _Readings, now: float) -> None:
        """Take a reading in, and report when memory has grown; then not again for a window."""
        if not self._not_before:
            self._not_before = now + self._settings.growth_window * _WARM_UP
        if readings.unique is None or (now < self._not_before and not self._samples):
            return
        self._add(Sample(now, readings.unique, gc.get_stats()[-1]["collections"], self._requests))
        self._count_entries(now)
        if now >= self._not_before:
            self._judge(readings.headroom, now)

    def _judge(self, headroom: int | None, now: float) -> None:
        growth = steady_growth(self._samples, self._settings)
        if not growth:
            return
        around = Surroundings(headroom, self._growing(now, _NAMED_SHARE * growth))
        for finding in detect_memory_growth(self._samples, self._settings, around):
            self._not_before = now + self._settings.growth_window
            self._signals.findings.report(finding)

    def _count_entries(self, now: float) -> None:
        if not self._counts or now - self._counts[-1][0] >= self._settings.growth_window / _COUNTS:
            try:
                self._counts.append((now, sizes()))
            except Exception as error:  # noqa: BLE001 - containers go without a name, memory is watched all the same
                self._signals.guard.failed("memory_containers", error)

    def _growing(self, now: float, least: float) -> tuple[Growing, ...]:
        """The application's containers that hold a part of the growth worth naming, the largest part first."""
        try:
            before = next((counts for at, counts in self._counts if at >= now - self._settings.growth_window * 1.1), {})
            return _grown(before, sizes(), least)
        except Exception as error:  # noqa: BLE001
            self._signals.guard.failed("memory_containers", error)
            return ()

    def _add(self, sample: Sample) -> None:
        last = self._samples[-1] if self._samples else None
        if last is None or sample.at >= last.at + self._stretch:
            self._samples.append(sample)
        elif sample.used < last.used:
            self._samples[-1] = sample._replace(at=last.at)


def _grown(before: dict[str, int], after: dict[str, int], least: float) -> tuple[Growing, ...]:
    """Containers that have at least so many bytes more than before."""
    weighed: list[tuple[float, str, Any]] = []
    for name, entries in after.items():
        grown = entries - before.get(name, 0)
        if grown > 0 and (value := container(name)) is not None:
            weighed.append((grown * bytes_of_entry(value), name, value))
    weighed.sort(key=lambda each: -each[0])
    return tuple(
        Growing(name, after[name], after[name] - before.get(name, 0), int(weight), adding_line(name, value))
        for weight, name, value in weighed[:_MOST_NAMED]
        if weight >= least
    )


def unique_bytes(smaps_rollup: str) -> int | None:
    """USS from the text of `/proc/<pid>/smaps_rollup`: the sum of its `Private_*` lines; None without any."""
    kilobytes = re.findall(r"^Private_\w+:\s+(\d+) kB$", smaps_rollup, re.MULTILINE)
    return sum(map(int, kilobytes)) * 1024 if kilobytes else None


@dataclass(frozen=True, slots=True)
class LimitedGroup:
    """A cgroup with a memory limit, in bytes.

    `working_set` is usage less the file cache that the kernel can drop first, as kubelet counts for eviction:
    https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
    """

    limit: int
    working_set: int

    @property
    def headroom(self) -> int:
        """Bytes until the kernel has nothing cheap left to free."""
        return max(0, self.limit - self.working_set)


def tightest(directories: Iterator[Path]) -> LimitedGroup | None:
    """Of these cgroups the one that will hit its limit first; None when none has a limit."""
    groups = filter(None, map(limited_group, directories))
    return min(groups, key=lambda group: group.headroom, default=None)


def limited_group(directory: Path) -> LimitedGroup | None:
    """The limit of one cgroup, v2 or v1, from its directory; None when it has none or cannot be read."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        texts = [_read(directory / name).strip() for name in (limit, usage, "memory.stat")]
        inactive = re.search(rf"^{cache} (\d+)$", texts[2], re.MULTILINE)
        if texts[0].isdecimal() and int(texts[0]) < _UNLIMITED and texts[1].isdecimal():
            return LimitedGroup(int(texts[0]), max(0, int(texts[1]) - int(inactive[1] if inactive else 0)))
    return None


def memory_cgroups(cgroup: str, mountinfo: str) -> Iterator[Path]:
    """Directories of the cgroups that bound the process's memory: its own, then those above as far as they are mounted.

    Takes the texts of `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo` (proc_pid_cgroup(5), proc_pid_mountinfo(5)).
    A container sees its own cgroup as the root of a mount, whatever path the host has it under; a path outside of every
    mount means just that.
    """
    version, path = _memory_path(cgroup)
    mounts = list(_memory_mounts(version, mountinfo))
    for root, point in mounts:
        if path.is_relative_to(root) and ".." not in path.parts:
            below = path.relative_to(root)
            yield from (point / step for step in (below, *below.parents))
            return
    yield from (point for _, point in mounts[:1])


def _memory_path(cgroup: str) -> tuple[str, PurePosixPath]:
    """The kind of the hierarchy that has the memory controller, as mountinfo names it, and the process's path in it."""
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    if "memory" in paths:
        return "cgroup", PurePosixPath(paths["memory"])
    return "cgroup2", PurePosixPath(paths.get("", "/"))


def _memory_mounts(version: str, mountinfo: str) -> Iterator[tuple[PurePosixPath, Path]]:
    """Where that hierarchy is mounted: which cgroup of it is the mount's root, and the mount point."""
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        words = kind.split()
        if words[:1] == [version] and (version == "cgroup2" or "memory" in words[-1].split(",")):
            fields = mount.split()
            yield PurePosixPath(fields[3]), Path(fields[4])


def _read(path: Path) -> str:
    """The text of a file; empty when there is none to read."""
    try:
        return path.read_text()
    except OSError:
        return ""
