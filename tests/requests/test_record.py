"""What a record keeps while its request runs."""

import threading

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import AWAITING, Cause, Interval, Mark, Phase, split

SUSPENSION = 0.0001


def record_with(marks: list[Mark]) -> RequestRecord:
    record = RequestRecord(None, {"type": "http"}, INVALID_SPAN, 0.0)
    record.marks = [number for mark in marks for number in mark]
    return record


def suspended(times: int, start: float = 1.0) -> list[Mark]:
    """Marks of an endpoint that is suspended so often, from `start` on."""
    marks: list[Mark] = [(0.0, Phase.MIDDLEWARE), (start - SUSPENSION, Phase.HANDLER)]
    for number in range(times):
        at = start + 2 * number * SUSPENSION
        marks += [(at, Phase.HANDLER | AWAITING), (at + SUSPENSION, Phase.HANDLER)]
    return marks


def test_the_suspensions_inside_of_a_statement_leave_one_mark() -> None:
    record = record_with(suspended(4))
    last = record.marks[-2]
    record.waited(1.0, last + SUSPENSION, Cause.DB)
    assert record.phases == [(0.0, Phase.MIDDLEWARE), (1.0 - SUSPENSION, Phase.HANDLER), (last, Phase.HANDLER)]


def test_those_of_a_long_wait_stay_since_they_show_when_the_request_made_progress() -> None:
    record = record_with(suspended(200))
    record.waited(1.0, record.marks[-2] + SUSPENSION, Cause.DB)
    assert record.phases == suspended(200)


def test_those_of_an_interval_that_another_thread_notes_stay() -> None:
    record = record_with(suspended(4))
    end = record.marks[-2] + SUSPENSION
    thread = threading.Thread(target=record.waited, args=(1.0, end, Cause.DB))
    thread.start()
    thread.join()
    assert record.phases == suspended(4)


def test_those_of_the_work_in_a_thread_stay_since_it_does_not_take_precedence() -> None:
    record = record_with(suspended(4))
    record.waited(1.0, record.marks[-2] + SUSPENSION, Cause.IN_THREAD)
    assert record.phases == suspended(4)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from([2, 2 | AWAITING])), max_size=20),
    st.lists(
        st.tuples(st.integers(1, 99), st.integers(1, 9), st.sampled_from([Cause.DB, Cause.POOL_WAIT])), max_size=4
    ),
)
def test_the_budget_is_the_same_as_with_all_marks(ats: list[tuple[int, int]], waits: list[Interval]) -> None:
    """The intervals are noted at their ends, as they are by the application."""
    marks: list[Mark] = [(0.0, Phase.MIDDLEWARE), *sorted((at / 1e4, phase) for at, phase in ats)]
    intervals = sorted(
        ((start / 1e4, (start + length) / 1e4, cause) for start, length, cause in waits), key=lambda each: each[1]
    )
    record = record_with([])
    left = list(marks)
    for start, end, cause in intervals:
        while left and left[0][0] <= end:
            record.marks += left.pop(0)
        record.waited(start, end, cause)
    record.marks += [number for mark in left for number in mark]
    kept = split(0.0, 0.02, record.phases, record.intervals)
    whole = split(0.0, 0.02, marks, intervals)
    assert kept.segments.keys() == whole.segments.keys()
    assert all(abs(kept.segments[segment] - seconds) < 1e-9 for segment, seconds in whole.segments.items())
