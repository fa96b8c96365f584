"""All connections of a pool are in use, and who needs one waits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.settings import DatabaseSettings

#: routes that are named
_MOST_HOLDERS = 5


class Holders(NamedTuple):
    """Connections that one route has."""

    #: "" for what is no request
    route: str
    connections: int
    #: how long the one that is held longest is held by now
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWait:
    """A wait for a connection that began when all were in use, and has ended."""

    pool: str
    #: without the time it took to open a new connection
    seconds: float
    #: it ended without one
    timed_out: bool
    #: connections that the pool keeps
    size: int
    #: connections it may have open, with `max_overflow`
    most: int
    #: connections in use when the wait began
    used: int
    #: others that still wait
    waiting: int
    #: who had them
    holders: tuple[Holders, ...]
    #: the request that waits has one already
    itself: bool


def detect_pool_wait(wait: PoolWait, settings: DatabaseSettings) -> Iterator[Finding]:
    """A finding for a wait of `settings.pool_wait` seconds and more; a critical one for a time-out, however short."""
    if wait.seconds < settings.pool_wait and not wait.timed_out:
        return
    holders = tuple(_told(holders) for holders in wait.holders[:_MOST_HOLDERS])
    end = "in vain " if wait.timed_out else ""
    yield Finding(
        kind=Kind.POOL_WAIT,
        severity=Severity.CRITICAL if wait.timed_out else Severity.WARNING,
        subject=wait.pool,
        message=(
            f"it waited {wait.seconds:.3f} s {end}for a connection: {wait.used} of {wait.most} were in use"
            f"{', held by ' + '; '.join(holders) if holders else ''}."
        ),
        remedy=_remedy(wait),
        evidence={
            "wait_seconds": wait.seconds,
            "timed_out": wait.timed_out,
            "pool_size": wait.size,
            "pool_max": wait.most,
            "used": wait.used,
            "waiting": wait.waiting,
            "holders": holders,
        },
        seconds=wait.seconds,
    )


def _told(holders: Holders) -> str:
    """`/export (3, the longest for 12.000 s)`."""
    return f"{holders.route or 'no request'} ({holders.connections}, the longest for {holders.seconds:.3f} s)"


def _remedy(wait: PoolWait) -> str:
    if wait.itself:
        return (
            "the request asks for another connection while it holds one, which ends in a deadlock when all do: run both"
            " statements in one session"
        )
    longest = max(wait.holders, key=lambda holders: holders.seconds, default=None)
    who = f" in {longest.route}" if longest is not None and longest.route else ""
    return (
        f"give the connection back before other work is awaited{who}: commit or close the session first;"
        f" if all of them are at work, raise pool_size in create_engine() over {wait.size}, as far as the database"
        " allows"
    )
