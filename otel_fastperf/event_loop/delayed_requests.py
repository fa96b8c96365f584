"""The blocks of the event loop that delayed a request without being its own, and those that it caused."""

from collections.abc import Sequence
from typing import Final

from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.signals import Block

#: a request that makes progress within this time after a block was ready, because other tasks may run first: seconds,
#: and a share of the block
_GRACE_SECONDS: Final = 0.02
_GRACE_SHARE: Final = 0.1


def blocks_that_delayed(
    record: RequestRecord, blocks: Sequence[Block], since: float | None = None, until: float | None = None
) -> list[Block]:
    """The blocks that delayed a request between `since` and `until`, oldest first, each cut to that time.

    Without them, between the start and the end of the request. `blocks` are ordered by their ends. A request was
    delayed if it did not cause the block and made progress right after it, or ended; one that kept sleeping was not. We
    cannot tell when it became ready, so the whole block counts from the start of the request on.
    """
    since = record.started if since is None else since
    until = record.ended if until is None else until
    delaying: list[Block] = []
    for block in reversed(blocks):
        if block.end <= since:
            break
        if block.owner is not record and block.start < until and _progressed_after(record, block, until):
            delaying.append(block._replace(start=max(block.start, since), end=min(block.end, until)))
    delaying.reverse()
    return delaying


def own_blocks(record: RequestRecord, blocks: Sequence[Block], since: float) -> list[Block]:
    """The blocks that a request caused after `since`, latest first."""
    own: list[Block] = []
    for block in reversed(blocks):
        if block.end <= since:
            break
        if block.owner is record:
            own.append(block)
    return own


def _progressed_after(record: RequestRecord, block: Block, until: float) -> bool:
    latest = block.end + _GRACE_SECONDS + _GRACE_SHARE * (block.end - block.start)
    if until <= latest:
        return True
    return any(block.end <= at <= latest for at, _ in record.phases) or any(
        block.end <= end <= latest for _, end, _ in record.intervals
    )
