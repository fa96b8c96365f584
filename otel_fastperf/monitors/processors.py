"""What the machine keeps from this process: processors that its threads wait for, and what its container may not use.

Read when metrics are read, from `/proc/self/task/*/schedstat` and from `cpu.stat` of the cgroups, v2 or v1. Linux only:
on other systems, and without a CPU limit, the series are absent.
"""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from otel_fastperf.internals.cgroups import limiting_cgroups, text_of
from otel_fastperf.metrics import Metrics, raise_to
from otel_fastperf.signals import Signals

_PROC: Final = Path("/proc/self")


@asynccontextmanager
async def monitor_processors(signals: Signals) -> AsyncIterator[None]:
    """Read both with each reading of the metrics."""
    processors = _Processors(signals.metrics, _PROC)
    forget = signals.metrics.on_refresh(processors.read)
    try:
        yield
    finally:
        forget()


class Throttling(NamedTuple):
    """How the kernel has enforced a CPU limit since the start of the container.

    Attributes:
        periods: Periods in which something ran.
        throttled: Periods in which the limit was used up, and everything stopped until the next one.
        seconds: How long, summed over processors.
    """

    periods: int
    throttled: int
    seconds: float


class _Processors:
    """Counts for one app."""

    def __init__(self, metrics: Metrics, proc: Path) -> None:
        self._metrics = metrics
        self._proc = proc
        #: seconds that each thread has waited, by native id
        self._waited: dict[str, float] = {}

    def read(self) -> None:
        """Bring the metrics up to date."""
        waited = seconds_without_processor(self._proc)
        if waited:
            # a thread that has ended is not there any more, and another one may have its id
            lost = (now - min(self._waited.get(thread, 0.0), now) for thread, now in waited.items())
            self._metrics.cpu_wait.inc(sum(lost))
            self._waited = waited
        groups = limiting_cgroups("cpu", text_of(self._proc / "cgroup"), text_of(self._proc / "mountinfo"))
        found = most_throttled(filter(None, map(throttling, groups)))
        if found is not None:
            raise_to(self._metrics.cpu_periods, found.periods)
            raise_to(self._metrics.cpu_throttled_periods, found.throttled)
            raise_to(self._metrics.cpu_throttled_seconds, found.seconds)


def seconds_without_processor(proc: Path) -> dict[str, float]:
    """By thread of the process: seconds since its start in which it was ready to run and had no processor."""
    waited: dict[str, float] = {}
    with suppress(OSError):
        for task in (proc / "task").iterdir():
            numbers = text_of(task / "schedstat").split()
            if len(numbers) > 1:
                waited[task.name] = int(numbers[1]) / 1e9
    return waited


def throttling(directory: Path) -> Throttling | None:
    """What `cpu.stat` of one cgroup says; None without a limit, under which no period is counted."""
    fields = dict(re.findall(r"^(\w+) (\d+)$", text_of(directory / "cpu.stat"), re.MULTILINE))
    periods = int(fields.get("nr_periods", 0))
    if not periods:
        return None
    # v1 says it in nanoseconds
    seconds = int(fields.get("throttled_usec", 0)) / 1e6 or int(fields.get("throttled_time", 0)) / 1e9
    return Throttling(periods, int(fields.get("nr_throttled", 0)), seconds)


def most_throttled(groups: Iterable[Throttling]) -> Throttling | None:
    """The cgroup that was stopped most often: that of the container, or one above it."""
    return max(groups, key=lambda group: group.throttled, default=None)
