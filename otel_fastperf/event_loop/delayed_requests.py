"""Who waited for the event loop while somebody else held it."""

from collections.abc import Sequence
from typing import Final

from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.signals import Hold

#: who goes on this many seconds after a hold, and this share of the hold, was ready: the others' turns come in between
_GRACE_SECONDS: Final = 0.02
_GRACE_SHARE: Final = 0.1


def waits_of(record: RequestRecord, holds: Sequence[Hold]) -> list[Hold]:
    """The holds that delayed a request which has ended, oldest first, each cut to the time of the request.

    `holds` are in order of their ends. Delayed was who did not hold the loop itself, and went on as soon as it was
    free again: something is noted of it then, or it ended. A request that slept on was not. When in the meantime it was
    ready to go on nobody knows: all of the hold since the request began counts as its wait.
    """
    waits: list[Hold] = []
    for hold in reversed(holds):
        if hold.end <= record.started:
            break
        if hold.owner is not record and hold.start < record.ended and _went_on(record, hold):
            waits.append(hold._replace(start=max(hold.start, record.started), end=min(hold.end, record.ended)))
    waits.reverse()
    return waits


def _went_on(record: RequestRecord, hold: Hold) -> bool:
    latest = hold.end + _GRACE_SECONDS + _GRACE_SHARE * (hold.end - hold.start)
    if record.ended <= latest:
        return True
    return any(hold.end <= at <= latest for at, _ in record.phases) or any(
        hold.end <= end <= latest for _, end, _ in record.intervals
    )
