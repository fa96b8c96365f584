"""How long other processes had the processors while this one wanted to run."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from otel_fastperf.internals import starvation
from otel_fastperf.internals.starvation import Starvation
from otel_fastperf.internals.thread_schedule import ScheduleFile, ThreadSchedule
from otel_fastperf.signals import Block, Delays

#: native ids
LOOP, WORKER, OTHER = 1, 2, 3


class Machine:
    """Stands in for the kernel and for the clock: two processors, and threads of this process."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cpu = 1.0
        self.starved: dict[int, float] = {LOOP: 7.0, WORKER: 0.0, OTHER: 0.0}
        self.names: dict[int, str] = {}
        self.reads = 0

    def passes(self, seconds: float, *, cpu: float = 0.0, starved: dict[int, float] | None = None) -> None:
        self.now += seconds
        self.cpu += cpu
        for thread, lost in (starved or {}).items():
            self.starved[thread] = self.starved.get(thread, 0.0) + lost

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu

    def thread_time(self) -> float:
        return 0.0

    def enumerate(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(native_id=thread, name=self.names.get(thread, "worker")) for thread in self.starved]

    def open(self, thread: int) -> SimpleNamespace:
        return SimpleNamespace(read=lambda: self.read(thread), close=bool)

    def read(self, thread: int) -> ThreadSchedule | None:
        self.reads += 1
        starved = self.starved.get(thread)
        return None if starved is None else ThreadSchedule(starved, 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(starvation, "time", machine)
    threads = SimpleNamespace(enumerate=machine.enumerate, main_thread=threading.main_thread, Lock=threading.Lock)
    monkeypatch.setattr(starvation, "threading", threads)
    monkeypatch.setattr(starvation, "ScheduleFile", machine.open)
    monkeypatch.setattr(starvation, "_processors", lambda: 2.0)
    return machine


@pytest.fixture
def measured(machine: Machine) -> Starvation:
    measured = Starvation()
    measured.note()
    return measured


def test_a_request_waits_for_its_loop_and_for_one_other_thread(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(1.0, starved={LOOP: 0.3, WORKER: 0.2, OTHER: 0.1})
    assert measured.seconds(start, machine.now) == pytest.approx(0.5)


def test_no_more_is_lost_than_passed(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(1.0, starved={LOOP: 0.8, WORKER: 0.8})
    assert measured.seconds(start, machine.now) == pytest.approx(1.0)


def test_what_keeps_the_processors_busy_itself_is_to_blame_itself(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(1.0, cpu=2.0, starved={LOOP: 0.8, WORKER: 0.8})
    assert measured.seconds(start, machine.now) == 0.0
    start = machine.now
    machine.passes(1.0, cpu=1.0, starved={LOOP: 0.8})
    assert measured.seconds(start, machine.now) == pytest.approx(0.4)


def test_a_wait_between_readings_has_its_share_of_what_was_lost_between_them(
    machine: Machine, measured: Starvation
) -> None:
    machine.passes(0.05, cpu=0.0, starved={LOOP: 0.05})
    start = machine.now
    machine.passes(0.05, cpu=0.002, starved={LOOP: 0.05})
    measured.note()
    machine.passes(0.1, cpu=0.002, starved={LOOP: 0.01})
    measured.note()
    machine.passes(0.05, cpu=0.002)
    end = machine.now
    machine.passes(0.05, starved={LOOP: 0.02})
    measured.note()
    machine.passes(0.1, cpu=0.002, starved={LOOP: 0.09})
    measured.note()
    assert measured.seconds(start, end) == pytest.approx(0.05 + 0.01 + 0.01, rel=0.05)


def test_a_wait_after_a_time_without_work_has_all_that_was_lost_since(machine: Machine, measured: Starvation) -> None:
    for _ in range(60):
        machine.passes(1.0, starved={LOOP: 0.2})
        measured.note()
    machine.passes(0.9)
    start = machine.now
    machine.passes(0.1, cpu=0.002, starved={LOOP: 0.06})
    assert measured.seconds(start, machine.now) == pytest.approx(0.06, rel=0.05)


def test_what_was_lost_before_the_first_reading_excuses_no_wait(machine: Machine) -> None:
    measured = Starvation()
    machine.passes(7.0, cpu=1.0, starved={LOOP: 6.0})
    for _ in range(3):
        start = machine.now
        machine.passes(0.2)
        assert measured.seconds(start, machine.now) == 0.0


def test_what_was_lost_long_before_a_wait_does_not_excuse_it(machine: Machine, measured: Starvation) -> None:
    """Nobody has read in between: the loop is not watched."""
    machine.passes(60.0, cpu=0.2, starved={LOOP: 6.0})
    start = machine.now
    machine.passes(0.2)
    assert measured.seconds(start, machine.now) == 0.0


def test_what_was_lost_before_a_wait_cannot_be_longer_than_the_wait_was_then(
    machine: Machine, measured: Starvation
) -> None:
    """The process was not read before the wait had begun."""
    machine.passes(2.0, cpu=0.2, starved={LOOP: 1.0})
    start = machine.now
    machine.passes(0.05)
    measured.note()
    machine.passes(0.2, starved={LOOP: 0.02})
    assert measured.seconds(start, machine.now) == pytest.approx(0.07, rel=0.05)


def test_a_thread_that_starts_meanwhile_counts_and_one_of_this_package_does_not(
    machine: Machine, measured: Starvation
) -> None:
    machine.names[5] = "otel_fastperf-watchdog"
    start = machine.now
    machine.passes(1.0, starved={4: 0.3, 5: 0.6})
    assert measured.seconds(start, machine.now) == pytest.approx(0.3)


def test_a_lock_s_thread_is_one_other_thread_perhaps_of_this_package(machine: Machine, measured: Starvation) -> None:
    machine.names[5] = "otel_fastperf-backlog"
    start = machine.now
    machine.passes(1.0, starved={LOOP: 0.9, WORKER: 0.3, 5: 0.6})
    assert measured.of_another(LOOP, start, machine.now) == pytest.approx(0.6)
    assert measured.of_another(5, start, machine.now) == pytest.approx(0.9)


def test_a_thread_counts_that_ends_before_the_wait_does(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(0.3, starved={4: 0.25})
    measured.note(waits=True)
    machine.passes(0.1)
    del machine.starved[4]
    measured.note(waits=True)
    assert measured.seconds(start, machine.now) == pytest.approx(0.25)
    assert measured.of_another(LOOP, start, machine.now) == pytest.approx(0.25)


def test_threads_that_are_waited_for_are_read_ten_times_a_second(machine: Machine, measured: Starvation) -> None:
    reads = machine.reads
    for _ in range(100):
        machine.passes(0.01)
        measured.note(waits=True)
    assert 8 <= (machine.reads - reads) / 3 <= 12


def test_a_new_thread_may_have_the_number_of_one_that_has_ended(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(1.0)
    machine.starved[LOOP] = 0.2
    assert measured.seconds(start, machine.now) == pytest.approx(0.2)


def test_a_process_that_does_nothing_is_read_once_a_second(machine: Machine, measured: Starvation) -> None:
    reads = machine.reads
    for _ in range(11):
        machine.passes(0.1)
        measured.note()
    assert machine.reads == reads + 3
    reads = machine.reads
    machine.passes(0.1, cpu=0.01)
    measured.note()
    assert machine.reads == reads + 3


def test_many_waits_that_end_at_once_share_a_reading(machine: Machine, measured: Starvation) -> None:
    start = machine.now
    machine.passes(0.5, starved={LOOP: 0.2})
    reads = machine.reads
    assert [measured.seconds(start, machine.now) for _ in range(5)] == pytest.approx([0.2] * 5)
    assert machine.reads == reads + 3


def test_nothing_is_known_where_the_kernel_does_not_tell(machine: Machine) -> None:
    machine.starved.clear()
    measured = Starvation()
    measured.note()
    machine.passes(1.0, cpu=1.0)
    measured.note()
    assert measured.seconds(100.0, 101.0) == 0.0
    assert machine.reads == 0


@pytest.fixture
def busy_processor() -> Iterator[int]:
    """A processor that another process keeps busy."""
    processor = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{processor}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield processor
        process.kill()


@pytest.mark.skipif(
    ScheduleFile(threading.get_native_id()).read() is None,
    reason="this kernel does not count, see /proc/self/schedstat",
)
def test_a_thread_that_shares_its_processor_with_another_process_takes_longer(busy_processor: int) -> None:
    starving = Starvation()
    starving.note()
    measured: list[float] = []

    def compute() -> None:
        os.sched_setaffinity(0, {busy_processor})
        start, cpu = time.perf_counter(), time.thread_time()
        while time.thread_time() - cpu < 0.2:
            pass
        end = time.perf_counter()
        measured.extend((end - start, starving.seconds(start, end)))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    seconds, lost = measured
    assert seconds > 0.3
    assert 0.4 * (seconds - 0.2) < lost <= seconds


@pytest.mark.skipif(
    not hasattr(os, "fork") or ScheduleFile(threading.get_native_id()).read() is None,
    reason="this system cannot fork, or its kernel does not count",
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_anew_with_its_own_thread() -> None:
    starving = Starvation()
    starving.note()
    child = os.fork()
    if not child:
        starving.note()
        os._exit(list(starving._readings[-1].starved) != [os.getpid()])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_a_block_lost_is_not_taken_off_twice(machine: Machine, measured: Starvation) -> None:
    delays, start = Delays(), machine.now
    delays.starvation = measured
    for lost in (0.0, 0.1, 0.1, 0.0, 0.0):
        machine.passes(0.1, cpu=0.002, starved={LOOP: lost})
        measured.note()
    delays.blocks.append(Block(start + 0.1, start + 0.3, None, None))
    assert delays.own_seconds(start, machine.now, on_loop=True) == pytest.approx(0.3, abs=0.01)
    delays.blocks[0] = Block(start + 0.1, start + 0.2, None, None)
    assert delays.unexplained_seconds(start, machine.now, 0.5, on_loop=True) == pytest.approx(0.3, abs=0.01)
    # what ends in a thread does not wait for the loop: its own starvation counts
    assert delays.unexplained_seconds(start, machine.now, 0.5, on_loop=False) == pytest.approx(0.3, abs=0.01)
