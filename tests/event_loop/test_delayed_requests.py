"""Which requests waited while somebody else held the event loop."""

from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause, Phase
from otel_fastperf.signals import Block


def request(started: float, ended: float) -> RequestRecord:
    record = RequestRecord(None, {"type": "http"}, INVALID_SPAN, started)
    record.ended = ended
    return record


def spans_of(record: RequestRecord, *blocks: Block) -> list[tuple[float, float]]:
    return [(wait.start, wait.end) for wait in blocks_that_delayed(record, blocks)]


def block(start: float, end: float, owner: RequestRecord | None = None) -> Block:
    return Block(start, end, owner, None)


def test_a_request_that_ended_right_after_a_block_has_waited_all_of_it() -> None:
    assert spans_of(request(1.0, 2.01), block(1.5, 2.0)) == [(1.5, 2.0)]


def test_a_request_that_came_in_during_a_block_has_waited_from_then_on() -> None:
    assert spans_of(request(1.8, 2.01), block(1.5, 2.0)) == [(1.8, 2.0)]


def test_who_held_the_loop_did_not_wait_for_it() -> None:
    owner = request(1.0, 2.01)
    assert spans_of(owner, block(1.5, 2.0, owner)) == []
    assert spans_of(owner, block(1.5, 2.0, request(1.0, 2.0))) == [(1.5, 2.0)]


def test_a_request_that_slept_on_was_not_delayed() -> None:
    assert spans_of(request(1.0, 9.0), block(1.5, 2.0)) == []


def test_a_request_that_passed_on_right_after_a_block_was_delayed() -> None:
    record = request(1.0, 9.0)
    record.phases.append((2.01, Phase.HANDLER))
    assert spans_of(record, block(1.5, 2.0)) == [(1.5, 2.0)]


def test_a_request_whose_statement_came_back_right_after_a_block_was_delayed() -> None:
    record = request(1.0, 9.0)
    record.waited(1.1, 2.01, Cause.DB)
    assert spans_of(record, block(1.5, 2.0)) == [(1.5, 2.0)]


def test_what_it_did_before_the_end_of_the_block_says_nothing() -> None:
    record = request(1.0, 9.0)
    record.phases.append((1.4, Phase.HANDLER))
    record.waited(1.1, 1.4, Cause.DB)
    assert spans_of(record, block(1.5, 2.0)) == []


def test_after_a_long_block_it_takes_longer_until_all_have_had_their_turn() -> None:
    assert spans_of(request(1.0, 12.8), block(2.0, 12.0)) == [(2.0, 12.0)]
    assert spans_of(request(1.0, 13.2), block(2.0, 12.0)) == []


def test_blocks_before_and_after_the_request_are_left_out() -> None:
    assert spans_of(request(2.0, 3.0), block(0.5, 1.0), block(1.5, 2.0), block(3.0, 3.5)) == []


def test_several_blocks_come_in_order() -> None:
    record = request(1.0, 3.01)
    record.phases.append((2.01, Phase.HANDLER))
    assert spans_of(record, block(1.5, 2.0), block(2.5, 3.0)) == [(1.5, 2.0), (2.5, 3.0)]
