"""The cause of a block, derived from measurements."""

from dataclasses import replace

import pytest

from otel_fastperf.event_loop.cause import BlockedBy, Measurement, blocked_by, by_other_threads, lost

THRESHOLD = 0.1


def cause(**measured: float | bool) -> str:
    return blocked_by(Measurement(**({"seconds": 0.4} | measured)), THRESHOLD).value  # type: ignore[arg-type]


def test_a_thread_that_slept_without_the_gil_waited_for_io() -> None:
    assert cause(cpu=0.001, asleep=1.0) == "sync_io"


def test_a_thread_that_ran_and_released_the_gil_on_request_computed() -> None:
    assert cause(cpu=0.39, gil_wait=0.006, asleep=0.0) == "cpu"


def test_a_thread_that_ran_and_kept_the_gil_was_in_c_code() -> None:
    assert cause(cpu=0.39, gil_wait=0.36, asleep=0.0) == "gil_held"


def test_a_thread_that_slept_and_kept_the_gil_was_in_c_code() -> None:
    assert cause(cpu=0.0, gil_wait=0.36, asleep=0.0) == "gil_held"


def test_a_thread_that_kept_the_gil_during_gc_pauses_collected_garbage() -> None:
    assert cause(cpu=0.39, gil_wait=0.36, asleep=0.0, gc=0.35) == "gc"


def test_a_collection_in_another_thread_blocks_the_loop() -> None:
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.36, asleep=0.0, gc=0.35) == "gc"
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.36, asleep=0.0, gc=0.35, idle=True) == "gc"


def test_a_collection_in_another_thread_is_not_the_cause_if_the_loop_s_thread_slept() -> None:
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.25, asleep=0.9, gc=0.25) == "sync_io"


def test_a_short_collection_is_not_the_cause() -> None:
    assert cause(cpu=0.39, gil_wait=0.03, asleep=0.0, gc=0.03) == "cpu"


@pytest.mark.parametrize("asleep", [None, 0.0, 1.0])
def test_a_process_in_which_even_the_watchdog_did_not_run_was_stopped(asleep: float | None) -> None:
    measured = Measurement(seconds=0.4, cpu=0.001, stopped=0.36, asleep=asleep)
    assert blocked_by(measured, THRESHOLD) is BlockedBy.DESCHEDULED


def test_long_computation_is_the_cause_even_on_a_busy_cpu() -> None:
    assert cause(seconds=0.9, cpu=0.3, stopped=0.5, asleep=0.0) == "cpu"


def test_a_thread_with_the_gil_but_little_cpu_time_was_descheduled() -> None:
    assert cause(cpu=0.05, gil_wait=0.012, asleep=0.1) == "descheduled"


def test_a_thread_that_was_runnable_without_the_gil_did_not_wait_for_io() -> None:
    """C code that released the GIL to compute, and gets too little CPU time."""
    assert cause(cpu=0.08, asleep=0.0) == "descheduled"


def test_other_threads_that_compute_hold_the_gil() -> None:
    measured = Measurement(seconds=0.4, cpu=0.06, others_cpu=0.3, gil_wait=0.02, asleep=0.0)
    assert blocked_by(measured, THRESHOLD) is BlockedBy.GIL_HELD
    assert by_other_threads(measured)


def test_a_thread_that_never_requested_the_gil_slept_even_if_others_computed() -> None:
    assert cause(cpu=0.0005, others_cpu=0.38, gil_wait=0.02, asleep=0.0, starved=0.0, turns=2) == "sync_io"


def test_a_thread_that_was_ready_and_got_no_processor_did_not_wait_for_io() -> None:
    """Other processes had the processors; its line, often an `await`, is where it happened to be."""
    assert cause(cpu=0.002, asleep=0.0, starved=0.39, turns=8) == "descheduled"
    assert cause(cpu=0.06, others_cpu=0.3, asleep=0.0, starved=0.3, turns=30) == "descheduled"


def test_a_thread_that_slept_on_a_busy_machine_waited_for_io() -> None:
    assert cause(cpu=0.002, asleep=0.3, starved=0.1, turns=3) == "sync_io"


def test_a_lock_is_waited_for_as_long_as_its_thread_has_no_processor() -> None:
    assert cause(cpu=0.002, asleep=1.0, locked=1.0, starved=0.0, others_starved=0.3) == "descheduled"
    assert cause(cpu=0.002, asleep=1.0, locked=1.0, starved=0.0, others_starved=0.1) == "sync_io"
    # that other threads have no processor does not make a socket answer late
    assert cause(cpu=0.002, asleep=1.0, locked=0.2, starved=0.0, others_starved=0.3) == "sync_io"


def test_a_gil_is_kept_as_long_as_its_thread_has_no_processor() -> None:
    assert cause(cpu=0.002, gil_wait=0.36, asleep=0.0, starved=0.001, turns=2, others_starved=0.3) == "descheduled"


def test_a_thread_that_woke_up_all_the_time_to_ask_for_the_gil_did_not_wait_for_io() -> None:
    """The thread that has the GIL gets no processor."""
    assert cause(cpu=0.002, gil_wait=0.05, asleep=0.0, starved=0.01, turns=70) == "descheduled"
    assert cause(cpu=0.002, gil_wait=0.36, asleep=0.0, starved=0.01, turns=70) == "descheduled"
    assert cause(cpu=0.002, others_cpu=0.39, gil_wait=0.36, asleep=0.0, starved=0.01, turns=70) == "gil_held"


def test_a_thread_that_slept_in_one_call_with_the_gil_is_in_c_code() -> None:
    assert cause(cpu=0.002, gil_wait=0.36, asleep=0.0, starved=0.001, turns=2) == "gil_held"


def test_without_the_kernel_s_figures_only_a_thread_that_was_seen_asleep_waited_for_io() -> None:
    assert cause(cpu=0.0005, asleep=0.0) == "descheduled"
    assert cause(cpu=0.0005, asleep=0.9) == "sync_io"


def test_a_collection_in_another_thread_is_the_cause_though_the_watchdog_did_not_run_either() -> None:
    assert cause(cpu=0.002, others_cpu=0.2, stopped=0.3, gc=0.38, idle=True, starved=0.0, turns=50) == "gc"


def test_threads_that_compute_without_the_gil_are_not_blamed() -> None:
    """For example threads of a linear algebra library."""
    assert not by_other_threads(Measurement(seconds=0.4, cpu=0.39, others_cpu=0.39, gil_wait=0.3))


@pytest.mark.parametrize(("others_cpu", "expected"), [(0.0, "descheduled"), (0.39, "gil_held")])
def test_an_idle_loop_that_woke_up_late_was_prevented_from_running(others_cpu: float, expected: str) -> None:
    assert cause(idle=True, asleep=1.0, others_cpu=others_cpu) == expected


def test_computation_is_charged_its_cpu_time() -> None:
    assert lost(Measurement(seconds=0.5, cpu=0.5, gc=0.1), BlockedBy.CPU) == pytest.approx(0.1)
    assert lost(Measurement(seconds=0.5, cpu=0.3), BlockedBy.CPU) == pytest.approx(0.2)


def test_a_collection_that_waits_for_a_processor_takes_no_more_than_its_share_of_the_cpu_time() -> None:
    # a machine that gave it a quarter of a processor: of 0.6 s, the collector had 30 %
    measured = Measurement(seconds=2.4, cpu=0.6, gc=0.72, starved=1.8)
    assert lost(measured, BlockedBy.CPU) == pytest.approx(2.4 - 0.42)


def test_waiting_is_charged_the_time_without_collections() -> None:
    assert lost(Measurement(seconds=0.5, cpu=0.01, gc=0.1), BlockedBy.SYNC_IO) == pytest.approx(0.1)
    assert lost(Measurement(seconds=0.5, cpu=0.01, gc=0.1, starved=0.2), BlockedBy.SYNC_IO) == pytest.approx(0.3)


def test_waiting_for_a_lock_is_charged_the_time_in_which_its_thread_could_run() -> None:
    measured = Measurement(seconds=0.5, cpu=0.01, starved=0.02, others_starved=0.2, locked=1.0)
    assert lost(measured, BlockedBy.SYNC_IO) == pytest.approx(0.2)
    assert lost(replace(measured, locked=0.0), BlockedBy.SYNC_IO) == pytest.approx(0.02)
