"""Which requests were delayed by a block that another one caused."""

from weakref import ref

from opentelemetry.trace import INVALID_SPAN

from otel_fastperf.event_loop.delayed_requests import blocks_that_delayed
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause, Phase
from otel_fastperf.signals import Block


def request(started: float, ended: float) -> RequestRecord:
    record = RequestRecord(None, {"type": "http"}, INVALID_SPAN, started)
    record.ended = ended
    return record


def delays_of(record: RequestRecord, *blocks: Block) -> list[tuple[float, float]]:
    return [(wait.start, wait.end) for wait in blocks_that_delayed(record, blocks)]


def block(start: float, end: float, owner: RequestRecord | None = None) -> Block:
    return Block(start, end, None if owner is None else ref(owner), None)


def test_a_request_that_ended_right_after_a_block_was_delayed_by_all_of_it() -> None:
    assert delays_of(request(1.0, 2.01), block(1.5, 2.0)) == [(1.5, 2.0)]


def test_a_request_that_arrived_during_a_block_was_delayed_by_the_rest_of_it() -> None:
    assert delays_of(request(1.8, 2.01), block(1.5, 2.0)) == [(1.8, 2.0)]


def test_a_request_is_not_delayed_by_its_own_block() -> None:
    owner = request(1.0, 2.01)
    assert delays_of(owner, block(1.5, 2.0, owner)) == []
    assert delays_of(owner, block(1.5, 2.0, request(1.0, 2.0))) == [(1.5, 2.0)]


def test_a_request_that_kept_waiting_after_the_block_was_not_delayed() -> None:
    assert delays_of(request(1.0, 9.0), block(1.5, 2.0)) == []


def test_a_request_that_changed_phase_right_after_a_block_was_delayed() -> None:
    record = request(1.0, 9.0)
    record.marks.extend((2.01, Phase.HANDLER))
    assert delays_of(record, block(1.5, 2.0)) == [(1.5, 2.0)]


def test_a_request_whose_statement_ended_right_after_a_block_was_delayed() -> None:
    record = request(1.0, 9.0)
    record.waited(1.1, 2.01, Cause.DB)
    assert delays_of(record, block(1.5, 2.0)) == [(1.5, 2.0)]


def test_progress_before_the_end_of_the_block_does_not_count() -> None:
    record = request(1.0, 9.0)
    record.marks.extend((1.4, Phase.HANDLER))
    record.waited(1.1, 1.4, Cause.DB)
    assert delays_of(record, block(1.5, 2.0)) == []


def test_progress_may_come_later_after_a_long_block() -> None:
    assert delays_of(request(1.0, 12.8), block(2.0, 12.0)) == [(2.0, 12.0)]
    assert delays_of(request(1.0, 13.2), block(2.0, 12.0)) == []


def test_blocks_before_and_after_the_request_do_not_count() -> None:
    assert delays_of(request(2.0, 3.0), block(0.5, 1.0), block(1.5, 2.0), block(3.0, 3.5)) == []


def test_several_delays_are_in_order() -> None:
    record = request(1.0, 3.01)
    record.marks.extend((2.01, Phase.HANDLER))
    assert delays_of(record, block(1.5, 2.0), block(2.5, 3.0)) == [(1.5, 2.0), (2.5, 3.0)]
