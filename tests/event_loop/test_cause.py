"""The cause of a block, derived from measurements."""

import pytest

from otel_fastperf.event_loop.cause import BlockedBy, Measurement, blocked_by, by_other_threads, lost

THRESHOLD = 0.1


def cause(**measured: float | bool) -> str:
    return blocked_by(Measurement(**({"seconds": 0.4} | measured)), THRESHOLD).value  # type: ignore[arg-type]


def test_a_thread_that_slept_without_the_gil_waited_for_input_or_output() -> None:
    assert cause(cpu=0.001, asleep=1.0) == "sync_io"


def test_a_thread_that_ran_and_gave_the_gil_when_asked_computed() -> None:
    assert cause(cpu=0.39, gil_wait=0.006, asleep=0.0) == "cpu"


def test_a_thread_that_ran_and_kept_the_gil_is_in_c_code() -> None:
    assert cause(cpu=0.39, gil_wait=0.36, asleep=0.0) == "gil_held"


def test_c_code_may_keep_the_gil_and_sleep() -> None:
    assert cause(cpu=0.0, gil_wait=0.36, asleep=0.0) == "gil_held"


def test_the_collector_of_garbage_keeps_the_gil_too_but_is_known_by_its_pauses() -> None:
    assert cause(cpu=0.39, gil_wait=0.36, asleep=0.0, gc=0.35) == "gc"


def test_a_collection_in_another_thread_keeps_the_loop_from_running() -> None:
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.36, asleep=0.0, gc=0.35) == "gc"
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.36, asleep=0.0, gc=0.35, idle=True) == "gc"


def test_a_collection_in_another_thread_is_not_why_a_thread_sleeps() -> None:
    assert cause(cpu=0.002, others_cpu=0.38, gil_wait=0.25, asleep=0.9, gc=0.25) == "sync_io"


def test_a_short_collection_is_not_the_cause() -> None:
    assert cause(cpu=0.39, gil_wait=0.03, asleep=0.0, gc=0.03) == "cpu"


@pytest.mark.parametrize("asleep", [None, 0.0, 1.0])
def test_a_process_in_which_not_even_the_watchdog_ran_was_stopped(asleep: float | None) -> None:
    measured = Measurement(seconds=0.4, cpu=0.001, stopped=0.36, asleep=asleep)
    assert blocked_by(measured, THRESHOLD) is BlockedBy.DESCHEDULED


def test_code_that_computes_for_long_is_the_cause_even_where_it_hardly_gets_a_processor() -> None:
    assert cause(seconds=0.9, cpu=0.3, stopped=0.5, asleep=0.0) == "cpu"


def test_a_thread_with_the_gil_and_without_a_processor_was_descheduled() -> None:
    assert cause(cpu=0.05, gil_wait=0.012, asleep=0.1) == "descheduled"


def test_a_thread_without_the_gil_that_has_no_processor_does_not_wait_for_input_or_output() -> None:
    """C code gives the GIL back, computes, and would be done long since."""
    assert cause(cpu=0.08, asleep=0.0) == "descheduled"


def test_other_threads_that_compute_keep_the_gil_from_the_loop() -> None:
    measured = Measurement(seconds=0.4, cpu=0.06, others_cpu=0.3, gil_wait=0.02, asleep=0.0)
    assert blocked_by(measured, THRESHOLD) is BlockedBy.GIL_HELD
    assert by_other_threads(measured)


def test_a_thread_that_never_asked_for_the_gil_slept_whatever_others_computed() -> None:
    assert cause(cpu=0.0005, others_cpu=0.38, gil_wait=0.02, asleep=0.0) == "sync_io"


def test_threads_that_compute_without_the_gil_do_not_take_the_blame() -> None:
    """As those of a library for linear algebra."""
    assert not by_other_threads(Measurement(seconds=0.4, cpu=0.39, others_cpu=0.39, gil_wait=0.3))


@pytest.mark.parametrize(("others_cpu", "expected"), [(0.0, "descheduled"), (0.39, "gil_held")])
def test_a_loop_that_did_nothing_and_is_late_was_kept_from_running(others_cpu: float, expected: str) -> None:
    assert cause(idle=True, asleep=1.0, others_cpu=others_cpu) == expected


def test_what_computes_is_to_blame_for_the_time_in_which_it_ran() -> None:
    measured = Measurement(seconds=0.5, cpu=0.3, gc=0.1)
    assert lost(measured, BlockedBy.CPU) == pytest.approx(0.3)


def test_what_waits_is_to_blame_for_all_of_it_but_collections() -> None:
    assert lost(Measurement(seconds=0.5, cpu=0.01, gc=0.1), BlockedBy.SYNC_IO) == pytest.approx(0.1)
