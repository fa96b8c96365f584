"""What the machine keeps from the process, read from prepared files and from this process."""

import threading
from pathlib import Path

import pytest

from otel_fastperf.exposition.merging import Sum
from otel_fastperf.exposition.reading import read_metrics
from otel_fastperf.exposition.series import read, written
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.monitors import processors as processors_module
from otel_fastperf.monitors.processors import Throttling, most_throttled, throttling
from tests.conftest import Probe
from tests.internals.test_cgroups import mounted
from tests.monitors.conftest import Run

V2 = "usage_usec 900\nuser_usec 500\nsystem_usec 400\nnr_periods {}\nnr_throttled {}\nthrottled_usec {}\nnr_bursts 0\n"
V1 = "nr_periods {}\nnr_throttled {}\nthrottled_time {}\n"


class Machine:
    """Files of a kernel, and the metrics of an app."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.group = folder / "cgroup"
        self.group.mkdir()
        (self.proc / "task").mkdir(parents=True)
        (self.proc / "cgroup").write_text("0::/\n")
        (self.proc / "mountinfo").write_text(mounted(self.group))
        self.metrics = Metrics()
        self.monitor = processors_module._Processors(self.metrics, self.proc)

    def waits(self, **seconds: float) -> None:
        """By thread: how long it has had no processor."""
        for file in (self.proc / "task").glob("*/schedstat"):
            file.unlink()
            file.parent.rmdir()
        for thread, waited in seconds.items():
            (self.proc / "task" / thread).mkdir()
            (self.proc / "task" / thread / "schedstat").write_text(f"5000 {waited * 1e9:.0f} 12\n")

    def stat(self, text: str) -> None:
        (self.group / "cpu.stat").write_text(text)

    def shown(self, name: str) -> float | None:
        self.monitor.read()
        return self.metrics.registry.get_sample_value(f"fastperf_cpu_{name}_total")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_waits_of_all_threads_count_since_their_start(machine: Machine) -> None:
    machine.waits(t1=1.5, t2=0.5)
    assert machine.shown("wait_seconds") == 2.0
    machine.waits(t1=2.0, t2=0.5, t3=0.25)
    assert machine.shown("wait_seconds") == 2.75


def test_waits_of_a_thread_that_has_ended_still_count(machine: Machine) -> None:
    machine.waits(t1=1.0, t2=3.0)
    assert machine.shown("wait_seconds") == 4.0
    machine.waits(t1=1.0)
    assert machine.shown("wait_seconds") == 4.0
    machine.waits(t1=1.0, t2=0.5)  # another thread with its id
    assert machine.shown("wait_seconds") == 4.5


@pytest.mark.parametrize("text", [V2.format(200, 50, 2_500_000), V1.format(200, 50, 2_500_000_000)], ids=["v2", "v1"])
def test_a_container_that_is_throttled_has_series_for_it(machine: Machine, text: str) -> None:
    machine.stat(text)
    assert machine.shown("periods") == 200
    assert machine.shown("throttled_periods") == 50
    assert machine.shown("throttled_seconds") == 2.5


@pytest.mark.parametrize("text", ["", "usage_usec 900\n", V2.format(0, 0, 0), V1.format(0, 0, 0)])
def test_without_a_cpu_limit_the_series_are_absent(machine: Machine, text: str) -> None:
    machine.stat(text)
    assert machine.shown("periods") is None
    assert machine.shown("throttled_seconds") is None


def test_without_linux_there_are_no_series(tmp_path: Path) -> None:
    metrics = Metrics()
    processors_module._Processors(metrics, tmp_path).read()
    assert not [family.name for family in metrics.registry.collect() if family.name.startswith("fastperf_cpu")]


def test_the_cgroup_that_is_stopped_most_often_counts(tmp_path: Path) -> None:
    (tmp_path / "pod").mkdir()
    (tmp_path / "cpu.stat").write_text(V2.format(100, 90, 1_000_000))
    (tmp_path / "pod" / "cpu.stat").write_text(V2.format(100, 10, 5_000_000))
    found = [throttling(tmp_path / "pod"), throttling(tmp_path)]
    assert most_throttled(one for one in found if one) == Throttling(100, 90, 1.0)
    assert most_throttled([]) is None


def test_workers_of_a_container_are_throttled_together_and_wait_each_for_itself(tmp_path: Path) -> None:
    merged = Sum()
    for name, waited in (("one", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        worker = Machine(tmp_path / name)
        worker.stat(V2.format(200, 50, 2_500_000))
        worker.waits(t1=waited)
        worker.monitor.read()
        shown = written(read_metrics(worker.metrics, Guard(print), bool, default_registry=False), bool)
        merged.add(read(shown, bool), name, bool)
    (throttled,) = merged.families[True, "fastperf_cpu_throttled_periods"].rows.values()
    (waits,) = merged.families[True, "fastperf_cpu_wait_seconds"].rows.values()
    assert (throttled[0], waits[0]) == (50, 3.0)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_the_threads_of_this_process_are_read_with_the_metrics(run: Run, probe: Probe) -> None:
    async def main() -> None:
        async with processors_module.monitor_processors(probe.signals):
            assert list(probe.signals.metrics.refresh()) == []
            assert (probe.value("fastperf_cpu_wait_seconds_total") or 0.0) >= 0.0
        assert set(processors_module.seconds_without_processor(Path("/proc/self"))) >= {str(threading.get_native_id())}

    run(main())
