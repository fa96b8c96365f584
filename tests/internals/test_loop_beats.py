"""At most how long an answer took that an event loop waited for, from the loop's idle time and its late timers."""

from math import inf

import pytest

from otel_fastperf.internals.loop_beats import LoopBeats


class Loop:
    """A loop that beats every 50 ms, or later: `idle` of each 50 ms it waits for events, and beats are `late`."""

    def __init__(self) -> None:
        self.now, self.idle = 100.0, 40.0
        self.beats = LoopBeats(lambda: self.idle)

    def passes(self, seconds: float, *, idle: float, late: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now, self.idle = self.now + 0.05, self.idle + 0.05 * idle
            self.beats.note(self.now, self.idle, late)

    def answer_seconds(self, seconds: float, running: float = 0.0) -> float:
        return self.beats.answer_seconds(self.now - seconds, self.now, running)


def test_an_answer_takes_all_the_time_in_which_the_loop_has_nothing_to_do() -> None:
    loop = Loop()
    loop.passes(2.0, idle=1.0, late=0.2)
    assert loop.answer_seconds(0.8) == pytest.approx(0.8)


def test_a_loop_that_works_in_long_rounds_may_have_kept_any_answer() -> None:
    loop = Loop()
    loop.passes(1.0, idle=1.0, late=0.0)
    loop.passes(1.5, idle=0.02, late=0.15)
    assert loop.answer_seconds(1.4) < 0.1


def test_a_loop_that_works_in_short_rounds_keeps_an_answer_for_a_few_of_them() -> None:
    loop = Loop()
    loop.passes(2.0, idle=0.2, late=0.01)
    assert 0.65 < loop.answer_seconds(0.8) < 0.75


def test_the_round_that_has_just_ended_counts_before_a_timer_tells_it() -> None:
    loop = Loop()
    loop.passes(1.0, idle=1.0, late=0.0)
    loop.now += 0.5
    assert loop.answer_seconds(0.52) > 0.4
    assert loop.answer_seconds(0.52, running=0.5) < 0.1


def test_an_idle_time_between_two_beats_counts_as_if_the_answer_was_awaited_then() -> None:
    loop = Loop()
    loop.passes(0.5, idle=0.0, late=0.3)
    loop.passes(0.05, idle=0.8, late=0.3)
    assert loop.answer_seconds(0.02) == pytest.approx(0.02)
    assert loop.answer_seconds(0.045) == pytest.approx(0.04)


def test_nothing_is_said_of_a_time_before_the_first_beat() -> None:
    loop = Loop()
    assert loop.answer_seconds(0.1) == inf
    loop.passes(0.5, idle=0.0, late=0.3)
    assert loop.answer_seconds(2.0) == inf
