"""A block is derived from the samples taken between two beats of the loop."""

import asyncio
import weakref
from math import inf
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.event_loop.blocks import BeatInterval, LateWakeup, LoopRun, Moment, Sample, longest_run, measured
from otel_fastperf.event_loop.stack_sampler import Sight
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause, Phase


class Task:
    """An object that supports weak references."""


TASKS = [Task(), Task(), Task()]


def sample(at: float, task: int | None = 0, *, since: float = 0.0, record: RequestRecord | None = None) -> Sample:
    reference: Any = None if task is None else weakref.ref(TASKS[task])
    return Sample(Moment(at, at, at), Sight(task=reference, record=record), since, asleep=False)


def interval_of(*samples: Sample, first_look: float = 10.07) -> BeatInterval:
    """An interval whose first beat was at 10 seconds."""
    interval = BeatInterval(Moment(10.0, 10.0, 10.0), first_look)
    interval.samples += samples
    return interval


def run_of(*samples: Sample, now: float) -> tuple[float, float]:
    run = longest_run(interval_of(*samples), Moment(now, now, now), since=now)
    assert run is not None
    return run.start, run.end


def record(started: float) -> RequestRecord:
    return RequestRecord(None, {"type": "http"}, INVALID_SPAN, started)


def test_a_task_in_every_sample_blocked_the_loop_for_the_whole_interval() -> None:
    assert run_of(sample(10.1), sample(10.2), now=10.3) == (10.0, 10.3)


def test_the_block_starts_when_the_loop_last_woke_up() -> None:
    assert run_of(sample(10.1, since=10.04), sample(10.2, since=10.04), now=10.3) == (10.04, 10.3)


def test_the_block_starts_after_the_last_event_of_its_request_before_the_first_sample() -> None:
    its = record(10.01)
    assert run_of(sample(10.1, since=10.005, record=its), now=10.3) == (10.01, 10.3)
    its.marks.extend((10.02, Phase.HANDLER))
    its.waited(10.01, 10.05, Cause.DB)
    its.marks.extend((10.25, Phase.SEND))
    assert run_of(sample(10.1, since=10.005, record=its), now=10.3) == (10.05, 10.3)


def test_the_block_starts_with_its_iteration_however_long_the_loop_was_free_before() -> None:
    its = record(10.21)
    assert run_of(sample(10.28, since=10.2, record=its), now=10.4) == (10.21, 10.4)
    assert run_of(sample(10.28, since=10.2), now=10.4) == (10.2, 10.4)


def test_events_before_the_interval_do_not_count() -> None:
    assert run_of(sample(10.1, since=9.0, record=record(3.0)), now=10.3) == (10.0, 10.3)


def test_the_longest_of_several_runs_extends_half_way_to_the_neighbouring_samples() -> None:
    samples = sample(10.1, 0), sample(10.2, 1), sample(10.6, 1), sample(10.8, 2)
    start, end = run_of(*samples, now=10.9)
    assert [start, end] == pytest.approx([10.15, 10.7])


def test_an_ended_task_is_not_mistaken_for_another_at_its_address() -> None:
    first: Any = weakref.ref(Task())
    second: Any = weakref.ref(TASKS[0])
    samples = [
        Sample(Moment(10.1 + at, 0, 0), Sight(task=task), 0.0, False) for at, task in ((0, first), (0.1, second))
    ]
    run = longest_run(interval_of(*samples), Moment(10.3, 0, 0), since=10.3)
    assert run is not None
    assert len(run.samples) == 1


def unseen(now: Moment, *late: LateWakeup, since: float) -> tuple[float, float]:
    run = longest_run(interval_of(), now, since, late)
    assert run is not None
    return run.start, run.end


def test_without_samples_the_loop_ran_at_most_its_current_iteration() -> None:
    assert unseen(Moment(10.5, 10.0, 10.0), since=10.3) == (10.3, 10.5)


def test_what_kept_the_watchdog_from_running_may_have_kept_the_loop_too() -> None:
    late = LateWakeup(10.05, 10.06, gil_wait=0.0), LateWakeup(10.1, 10.4, gil_wait=0.3)
    assert unseen(Moment(10.5, 10.0, 10.0), *late, since=10.5) == (10.1, 10.4)


def test_the_loop_s_own_cpu_time_shows_that_it_ran_before_the_watchdog_was_late() -> None:
    start, end = unseen(Moment(10.5, 10.35, 10.35), LateWakeup(10.1, 10.4, gil_wait=0.3), since=10.5)
    assert [start, end] == pytest.approx([10.05, 10.4])


def test_a_loop_without_a_clock_ran_since_its_last_beat() -> None:
    assert unseen(Moment(10.5, 10.5, 10.5), since=-inf) == (10.0, 10.5)


def test_a_loop_that_did_not_run_was_not_blocked() -> None:
    stopped = Sample(Moment(10.1, 0, 0), Sight(running=False), 0.0, asleep=True)
    assert longest_run(interval_of(stopped, sample(10.2)), Moment(10.3, 0, 0), since=10.3) is None


def test_measurements_cover_the_run_only() -> None:
    run = LoopRun(10.0, 10.4, (sample(10.1), sample(10.2)), Moment(10.0, 5.0, 7.0), Moment(10.4, 5.1, 7.3))
    lates = [
        LateWakeup(9.5, 10.1, gil_wait=0.05),  # 0.1 s of it in the run, half of that for the GIL
        LateWakeup(10.2, 10.35, gil_wait=0.2),
        LateWakeup(10.35, 10.36, gil_wait=0.0),  # practically on time
    ]
    found = measured(run, lates, pauses=[(9.9, 10.05), (10.3, 10.32), (11.0, 11.5)])
    assert found.seconds == pytest.approx(0.4)
    assert found.cpu == pytest.approx(0.1)
    assert found.others_cpu == pytest.approx(0.2)
    assert found.gc == pytest.approx(0.07)
    assert found.stopped == pytest.approx(0.05)
    assert found.gil_wait == pytest.approx(0.15)
    assert (found.asleep, found.idle) == (0.0, False)


def test_a_run_without_samples_counts_as_idle() -> None:
    found = measured(LoopRun(10.0, 10.4, (), Moment(10.0, 0, 0), Moment(10.4, 0, 0)), [], [])
    assert (found.asleep, found.idle) == (None, True)


def test_a_task_has_one_weak_reference() -> None:
    """Python returns the same object each time, so samples can compare references by identity."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert weakref.ref(task) is weakref.ref(task)

    asyncio.run(main())
