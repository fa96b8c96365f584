"""USS and the cgroup's limit, read from prepared files and monitored in this process."""

import asyncio
import gc
import mmap
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from otel_fastperf.internals.cgroups import limiting_cgroups
from otel_fastperf.metrics import Metrics
from otel_fastperf.monitors import memory as memory_module
from otel_fastperf.monitors.memory import (
    LimitedGroup,
    limited_group,
    monitor_memory,
    resident_bytes,
    tightest,
    unique_bytes,
)
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import MemorySettings
from tests.conftest import Probe
from tests.internals.test_cgroups import mounted
from tests.monitors.conftest import Run
from tests.threads import new_threads

Until = Callable[[Callable[[], object]], Awaitable[None]]

MB = 1024 * 1024
SETTINGS = MemorySettings(interval=0.1)

SMAPS_ROLLUP = """\
55d0d6a4a000-7ffd4b1f6000 ---p 00000000 00:00 0                          [rollup]
Rss:               48332 kB
Pss:               41211 kB
Shared_Clean:      10000 kB
Shared_Dirty:          0 kB
Private_Clean:      3000 kB
Private_Dirty:     35332 kB
Private_Hugetlb:    2048 kB
Swap:                  0 kB
"""

linux = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux with /proc/self/smaps_rollup (4.14 or newer)"
)


def v2(directory: Path, limit: str, usage: int, inactive: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"anon 1\nactive_file 7\ninactive_file {inactive}\n")
    return directory


def v1(directory: Path, limit: int, usage: int, inactive: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (directory / "memory.stat").write_text(f"inactive_file 3\ntotal_inactive_file {inactive}\n")
    return directory


def test_unique_memory_is_the_sum_of_all_private_pages() -> None:
    assert unique_bytes(SMAPS_ROLLUP) == (3000 + 35332 + 2048) * 1024


def test_without_smaps_rollup_unique_memory_is_unknown() -> None:
    assert unique_bytes("") is None
    assert resident_bytes("") is None


@pytest.mark.parametrize("made", [lambda path: v2(path, "1000", 700, 200), lambda path: v1(path, 1000, 700, 200)])
def test_headroom_is_the_limit_minus_the_working_set(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    group = limited_group(made(tmp_path))
    assert group == LimitedGroup(limit=1000, working_set=500)
    assert group.headroom == 500


@pytest.mark.parametrize(
    "made",
    [
        lambda path: v2(path, "max", 700),
        lambda path: v1(path, 9223372036854771712, 700),
        lambda path: v1(path, 9223372036854710272, 700),  # with pages of 64 KB
        lambda path: path,
        lambda path: path / "gone",
    ],
    ids=["v2", "v1", "v1, large pages", "root of v2", "no such cgroup"],
)
def test_a_cgroup_without_a_limit_has_no_limit_and_no_headroom(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    assert limited_group(made(tmp_path)) is None


def test_headroom_is_never_negative(tmp_path: Path) -> None:
    group = limited_group(v2(tmp_path, "1000", 1100))
    assert group is not None
    assert group.headroom == 0


def test_the_tightest_cgroup_is_the_one_closest_to_its_limit(tmp_path: Path) -> None:
    """A container that uses 200 of 1000 is killed if its pod has only 100 of 3000 left."""
    pod = v2(tmp_path / "pod", "3000", 2900)
    container = v2(pod / "container", "1000", 200)
    directories = limiting_cgroups("memory", "0::/pod/container\n", mounted(v2(tmp_path, "max", 5000)))
    assert tightest(directories) == LimitedGroup(3000, 2900)
    assert tightest(iter([container])) == LimitedGroup(1000, 200)


def test_an_unlimited_cgroup_has_the_limit_of_its_parent(tmp_path: Path) -> None:
    v1(tmp_path / "a" / "b", 9223372036854771712, 10)
    v1(tmp_path / "a", 1000, 300, 100)
    mounts = mounted(tmp_path, "/", "cgroup", "rw,memory")
    assert tightest(limiting_cgroups("memory", "3:memory:/a/b\n", mounts)) == LimitedGroup(1000, 200)


def test_a_limited_process_has_series_for_limit_and_headroom(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "smaps_rollup").write_text(SMAPS_ROLLUP)
    (proc / "cgroup").write_text("0::/\n")
    (proc / "mountinfo").write_text(mounted(v2(tmp_path / "cgroup", str(512 * MB), 200 * MB, 50 * MB)))
    metrics = Metrics()
    memory_module._measure(metrics, proc)
    assert metrics.registry.get_sample_value("fastperf_memory_unique_bytes") == 40380 * 1024
    assert metrics.registry.get_sample_value("fastperf_memory_resident_bytes") == 48332 * 1024
    assert metrics.registry.get_sample_value("fastperf_memory_limit_bytes") == 512 * MB
    assert metrics.registry.get_sample_value("fastperf_memory_headroom_bytes") == 362 * MB


def test_without_linux_or_a_limit_the_series_are_absent(tmp_path: Path) -> None:
    metrics = Metrics()
    memory_module._measure(metrics, tmp_path)
    assert not [family.name for family in metrics.registry.collect() if family.name.startswith("fastperf_memory")]


@linux
def test_memory_unique_to_this_process_is_measured(run: Run, probe: Probe, until: Until) -> None:
    async def main() -> None:
        async with monitor_memory(SETTINGS, probe.signals):
            await until(lambda: unique() > 0)
            before = unique()
            ballast = bytearray(b"x") * (64 * MB)
            await until(lambda: unique() > before + 48 * MB)
            del ballast
            await until(lambda: unique() < before + 16 * MB)

    def unique() -> float:
        return probe.value("fastperf_memory_unique_bytes") or 0.0

    run(main())
    assert unique() <= (probe.value("process_resident_memory_bytes") or 0.0) * 1.2


def test_the_monitor_stops_completely_and_can_be_restarted(run: Run, until: Until, probe: Probe) -> None:
    async def main() -> None:
        threads, tasks = threading.enumerate(), asyncio.all_tasks()
        for _ in range(2):
            async with monitor_memory(MemorySettings(interval=3600), probe.signals):
                assert len(new_threads(threads)) == 1
            await until(lambda: not new_threads(threads))
            listeners = probe.signals.findings._request_listeners.registered
            assert (asyncio.all_tasks(), listeners) == (tasks, ())

    run(main())


def test_a_failed_reading_is_counted_and_the_next_one_is_made(
    run: Run, probe: Probe, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_PROC", None)

    async def main() -> None:
        async with monitor_memory(SETTINGS, probe.signals):
            await until(lambda: len(probe.failures) > 1)

    run(main())
    assert set(probe.failures) == {"memory_monitor"}


@linux
def test_memory_is_read_off_the_event_loop(run: Run, probe: Probe, until: Until) -> None:
    readers: set[int] = set()

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).endswith("smaps_rollup"):
            readers.add(threading.get_ident())

    async def main() -> None:
        async with monitor_memory(SETTINGS, probe.signals):
            await until(lambda: readers)

    watching = [True]
    sys.addaudithook(audit)
    try:
        run(main())
    finally:
        watching.clear()
    assert threading.get_ident() not in readers


# Growth


#: a window that is long enough for a dozen readings, even in the large process of the whole test suite
GROWTH = MemorySettings(interval=0.1, growth_window=5, growth_bytes=8 * MB)


@pytest.fixture
def _without_objects_of_earlier_tests() -> Iterator[None]:
    """Collections would walk them too, and on a busy machine each takes seconds, in which memory does not grow."""
    gc.freeze()
    yield
    gc.unfreeze()


@linux
@pytest.mark.usefixtures("_without_objects_of_earlier_tests")
def test_memory_that_grows_and_survives_full_collections_is_found(run: Run, probe: Probe, until: Until) -> None:
    kept: list[mmap.mmap] = []
    started = time.monotonic()

    def grow() -> object:
        # by the clock: a busy machine too fills a window with more than `growth_bytes`
        while len(kept) < 8 * (time.monotonic() - started):
            # memory of its own pages: objects would reuse what earlier tests have freed, and memory would not grow
            page = mmap.mmap(-1, MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.write(b"x" * MB)
            kept.append(page)
            if len(kept) % 10 == 0:
                gc.collect()
        return probe.findings()

    async def main() -> None:
        async with monitor_memory(GROWTH, probe.signals):
            await until(grow)

    run(main())
    (finding,) = probe.findings()
    assert finding.kind == "memory_growth"
    assert finding.evidence["full_collections"]


@linux
def test_bursts_of_memory_yield_no_finding(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with monitor_memory(GROWTH, probe.signals):
            for _ in range(22):
                burst = bytearray(b"x") * (24 * MB)
                await asyncio.sleep(0.2)
                del burst
                await asyncio.sleep(0.15)

    run(main())
    assert probe.findings() == ()


class SimulatedReadings:
    """A series of simulated readings, ten seconds apart."""

    def __init__(self, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
        self.growth = memory_module._Growth(MemorySettings(), probe.signals)
        self.now = 1000.0
        self._probe = probe
        monkeypatch.setattr(gc, "get_stats", lambda: [{}, {}, {"collections": int(self.now // 60)}])

    def advance(self, curve: Callable[[float], float], seconds: float, *, headroom: int | None = None) -> None:
        end = self.now + seconds
        while self.now < end:
            self.growth.add(memory_module._Usage(int(curve(self.now - 1000) * MB), headroom), self.now)
            self.now += 10

    def found(self) -> int:
        return sum(finding.count for finding in self._probe.findings())


@pytest.fixture
def readings(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> SimulatedReadings:
    return SimulatedReadings(probe, monkeypatch)


def test_the_time_after_the_start_is_left_out(readings: SimulatedReadings) -> None:
    """Half of the memory is loaded in the first 200 seconds, a third of the window."""
    readings.advance(lambda at: 100 + min(at, 400), 3600)
    assert readings.found() == 0


def test_growth_is_found_after_a_full_window_and_once_per_window_from_then_on(readings: SimulatedReadings) -> None:
    readings.advance(lambda at: 100 + at / 6, 700)
    assert readings.found() == 0
    readings.advance(lambda at: 100 + at / 6, 120)
    assert readings.found() == 1
    readings.advance(lambda at: 100 + at / 6, 600)
    assert readings.found() == 2


def test_growth_per_request_is_computed_from_the_number_of_requests(readings: SimulatedReadings, probe: Probe) -> None:
    span = probe.signals.tracer.start_span("request")
    record = RequestRecord(probe.signals, {"type": "http"}, span, 0.0)

    def curve(at: float) -> float:
        readings.growth.request_ended(record)
        return 100 + at / 6

    readings.advance(curve, 820)
    (finding,) = probe.findings()
    assert finding.evidence["bytes_per_request"] == pytest.approx(10 / 6 * MB, rel=0.1)


def test_the_series_is_bounded_however_often_memory_is_read(probe: Probe) -> None:
    growth = memory_module._Growth(MemorySettings(interval=0.1), probe.signals)
    for number in range(30_000):
        growth.add(memory_module._Usage(100 * MB + number % 7, None), 1000 + number / 10)
    assert len(growth._samples) <= 181
    assert {sample.used for sample in growth._samples} == {100 * MB}


def test_a_growing_collection_is_named_with_the_line_that_adds_to_it(
    readings: SimulatedReadings, probe: Probe, shop: ModuleType
) -> None:
    def curve(at: float) -> float:
        shop.page(f"visitor {at}")
        return 100 + at

    readings.advance(curve, 820)
    (finding,) = probe.findings()
    assert finding.subject == "growing_shop.pages"
    assert finding.call_site is not None
    assert SHOP.splitlines()[finding.call_site.line - 1].strip() == "pages[visitor] = bytes(1024 * 1024)"
    assert "cachetools.TTLCache" in finding.remedy


SHOP = """
pages = {}
names = []

def page(visitor):
    names.append(visitor)
    if visitor not in pages:
        pages[visitor] = bytes(1024 * 1024)
    return pages[visitor]
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of an application."""
    path = tmp_path / "growing_shop.py"
    path.write_text(SHOP)
    module = ModuleType("growing_shop")
    module.__file__ = str(path)
    exec(compile(SHOP, module.__file__, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "growing_shop", module)
    return module
