"""The segments of the time budget always add up to the duration, and no time counts twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.requests.time_budget import AWAITING, READY, Budget, Cause, Phase, Segment, split

M = Phase.MIDDLEWARE
CAUSES = tuple(cause for name, cause in vars(Cause).items() if name.isupper())


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
    every = [(4.0, 4.25 + number * 0.25, cause) for number, cause in enumerate(CAUSES) if cause != Cause.IN_THREAD]
    phases = ((0.0, Phase.HANDLER | AWAITING),)
    spent = seconds(split(0.0, 10.0, phases, every))
    assert spent == seconds(split(0.0, 10.0, phases, reversed(every)))
    waits = ("pool_wait", "threadpool_wait", "cache", "messaging", "rpc", "http_client")
    assert {name: spent[name] for name in ("gc", "loop_wait", "db", "commit", *waits)} == dict.fromkeys(
        ("gc", "loop_wait", "db", "commit", *waits), 0.25
    )


def test_a_blocked_loop_does_not_delay_a_thread() -> None:
    phases, block = ((0.0, Phase.HANDLER | AWAITING),), (4.0, 6.0, Cause.LOOP_WAIT)
    assert seconds(split(0.0, 10.0, phases, (block,)))["loop_wait"] == 2.0
    assert seconds(split(0.0, 10.0, phases, (block, (4.0, 5.5, Cause.IN_THREAD))))["loop_wait"] == 0.5


def test_a_request_that_runs_does_not_wait_for_the_loop() -> None:
    """For example while the machine runs other processes: the loop is blocked, and the request is what it runs."""
    phases = ((0.0, Phase.HANDLER), (4.0, Phase.HANDLER | AWAITING), (5.0, Phase.HANDLER))
    assert seconds(split(0.0, 10.0, phases, ((1.0, 4.5, Cause.LOOP_WAIT),))) == {
        "handler": 9.0,
        "loop_wait": 0.5,
        "handler_await": 0.5,
    }


def test_a_request_that_is_ready_waits_for_the_loop_whatever_its_statement_waits_for() -> None:
    phases = ((0.0, Phase.HANDLER), (1.0, Phase.HANDLER | AWAITING), (4.0, Phase.HANDLER | READY), (6.0, Phase.HANDLER))
    assert seconds(split(0.0, 8.0, phases)) == {"handler": 3.0, "handler_await": 3.0, "loop_wait": 2.0}
    assert seconds(split(0.0, 8.0, phases, ((1.0, 6.0, Cause.DB),))) == {"handler": 3.0, "db": 3.0, "loop_wait": 2.0}


def test_what_a_part_of_the_app_awaits_is_a_segment_of_its_own() -> None:
    awaited = (
        (0.0, M),
        (0.5, M | AWAITING),
        (1.0, M),
        (1.5, Phase.ROUTING),
        (2.0, Phase.DEPENDENCIES),
        (2.5, Phase.DEPENDENCIES | AWAITING),
        (4.0, Phase.DEPENDENCIES),
        (4.5, Phase.HANDLER),
        (5.0, Phase.HANDLER | AWAITING),
        (8.0, Phase.HANDLER),
        (8.5, Phase.SEND),
        (8.75, Phase.SEND | AWAITING),
    )
    budget = split(0.0, 10.0, awaited)
    assert seconds(budget) == {
        "middleware": 1.0,
        "middleware_await": 0.5,
        "dependencies": 1.5,
        "dependencies_await": 1.5,
        "handler": 1.0,
        "handler_await": 3.0,
        "send": 1.5,
    }
    assert budget.middleware == {0: 1.5}


def test_a_statement_is_no_other_awaiting() -> None:
    phases = ((0.0, Phase.HANDLER), (1.0, Phase.HANDLER | AWAITING), (4.0, Phase.HANDLER))
    assert seconds(split(0.0, 5.0, phases, ((1.5, 3.5, Cause.DB),))) == {
        "handler": 2.0,
        "handler_await": 1.0,
        "db": 2.0,
    }


def test_the_endpoint_runs_while_its_thread_runs() -> None:
    phases = ((0.0, Phase.HANDLER), (1.0, Phase.HANDLER | AWAITING), (4.0, Phase.HANDLER))
    intervals = ((1.5, 3.5, Cause.IN_THREAD), (2.0, 3.0, Cause.DB))
    assert seconds(split(0.0, 5.0, phases, intervals)) == {"handler": 3.0, "handler_await": 1.0, "db": 1.0}


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
PHASES = st.sampled_from([phase | bit for phase in (*range(6), M, M + 1, M + 7) for bit in (0, AWAITING, READY)])


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
    phases = [mark for at, phase in PLAIN for mark in ((at, phase), (at + 0.2, phase | AWAITING))]
    causes = [(6.0 + number * 0.1, 6.1 + number * 0.1, cause) for number, cause in enumerate(CAUSES)]
    assert set(split(0.0, 10.0, phases, causes).segments) == set(Segment)
