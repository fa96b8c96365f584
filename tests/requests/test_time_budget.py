"""The segments of the time budget always add up to the duration, and no time counts twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.requests.time_budget import Budget, Cause, Phase, Segment, split

M = Phase.MIDDLEWARE
CAUSES = (Cause.GC, Cause.LOOP_WAIT, Cause.DB, Cause.POOL_WAIT, Cause.THREADPOOL_WAIT, Cause.IN_THREAD)


def seconds(budget: Budget) -> dict[str, float]:
    """Seconds by segment, rounded."""
    return {str(segment): round(spent, 6) for segment, spent in budget.segments.items()}


#: a request through two middlewares that resolves dependencies, runs its endpoint, and sends the return value
PLAIN = (
    (0.0, M),
    (1.0, M + 1),
    (3.0, Phase.ROUTING),
    (3.5, Phase.DEPENDENCIES),
    (4.0, Phase.HANDLER),
    (7.0, Phase.SERIALIZATION),
    (8.0, M + 1),
    (8.5, M),
    (9.0, Phase.SEND),
)


def test_each_moment_belongs_to_the_phase_that_began_last() -> None:
    assert seconds(split(0.0, 10.0, PLAIN)) == {
        "middleware": 4.0,
        "dependencies": 1.0,
        "handler": 3.0,
        "serialization": 1.0,
        "send": 1.0,
    }


def test_each_middleware_has_its_own_share() -> None:
    assert split(0.0, 10.0, PLAIN).middleware == {0: 1.5, 1: 2.5}


def test_routing_counts_as_handler_time_without_dependencies() -> None:
    """For example a route of plain Starlette, or a 404."""
    assert seconds(split(0.0, 2.0, ((0.0, M), (0.5, Phase.ROUTING)))) == {"middleware": 0.5, "handler": 1.5}


def test_parallel_statements_count_once() -> None:
    intervals = ((4.0, 6.0, Cause.DB), (4.5, 6.5, Cause.DB), (5.0, 5.5, Cause.DB))
    assert seconds(split(0.0, 10.0, PLAIN, intervals))["db"] == 2.5


def test_a_wait_in_middleware_counts_for_its_cause_and_not_as_self_time() -> None:
    budget = split(0.0, 10.0, PLAIN, ((1.5, 2.5, Cause.DB),))
    assert (seconds(budget)["middleware"], seconds(budget)["db"]) == (3.0, 1.0)
    assert budget.middleware[1] == 2.5


def test_the_stronger_of_two_causes_wins() -> None:
    every = [(4.0, 7.0 - number * 0.5, cause) for number, cause in enumerate(reversed(CAUSES[:5]))]
    assert seconds(split(0.0, 10.0, PLAIN, every)) == seconds(split(0.0, 10.0, PLAIN, reversed(every)))
    assert seconds(split(0.0, 10.0, PLAIN, every))["gc"] == 1.0
    assert seconds(split(0.0, 10.0, PLAIN, every))["threadpool_wait"] == 0.5


def test_a_blocked_loop_does_not_delay_a_thread() -> None:
    block = (4.0, 6.0, Cause.LOOP_WAIT)
    assert seconds(split(0.0, 10.0, PLAIN, (block,)))["loop_wait"] == 2.0
    assert seconds(split(0.0, 10.0, PLAIN, (block, (4.0, 5.5, Cause.IN_THREAD))))["loop_wait"] == 0.5


def test_intervals_outside_of_the_request_do_not_count() -> None:
    intervals = ((-5.0, 1.0, Cause.GC), (9.5, 20.0, Cause.DB), (30.0, 40.0, Cause.DB), (-3.0, -2.0, Cause.DB))
    assert seconds(split(0.0, 10.0, (*PLAIN, (11.0, Phase.HANDLER)), intervals)) == {
        "gc": 1.0,
        "middleware": 3.0,
        "dependencies": 1.0,
        "handler": 3.0,
        "serialization": 1.0,
        "send": 0.5,
        "db": 0.5,
    }


TIMES = st.floats(min_value=-5, max_value=15, allow_nan=False)
PHASES = st.sampled_from([*range(5), M, M + 1, M + 7])


@given(
    st.lists(st.tuples(TIMES, PHASES), max_size=30),
    st.lists(st.tuples(TIMES, TIMES, st.sampled_from(CAUSES)), max_size=30),
)
def test_the_segments_always_add_up(phases: list[tuple[float, int]], intervals: list[tuple[float, float, int]]) -> None:
    budget = split(0.0, 10.0, [(0.0, M), *sorted(phases)], intervals)
    assert sum(budget.segments.values()) == pytest.approx(10.0)
    assert all(spent > 0 for spent in budget.segments.values())
    assert sum(budget.middleware.values()) <= 10.0 + 1e-9


def test_every_segment_can_be_reached() -> None:
    causes = [(6.0 + number * 0.1, 6.1 + number * 0.1, cause) for number, cause in enumerate(CAUSES)]
    assert set(split(0.0, 10.0, PLAIN, causes).segments) == set(Segment)
