"""A wait for a database connection while all connections of the pool are in use."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.settings import DatabaseSettings

#: most routes in message and evidence
_MOST_HOLDERS = 5


class Holders(NamedTuple):
    """The connections in use by one route.

    Attributes:
        route: Route template; "" outside of requests.
        connections: Their number.
        seconds: How long the one that was checked out first has been in use.
    """

    route: str
    connections: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWait:
    """A wait for a connection that began when all were in use, and has ended.

    Attributes:
        pool: Name of the pool.
        seconds: Duration, without the time to open a new connection.
        timed_out: The wait ended without a connection.
        in_request: A request waited, not code outside of requests.
        size: Number of connections that the pool keeps open.
        most: Most connections it may open, including `max_overflow`.
        used: Connections in use when the wait began.
        waiting: Others that are still waiting.
        holders: The users of the connections.
        itself: The waiting request already has a connection of this pool.
    """

    pool: str
    seconds: float
    timed_out: bool
    in_request: bool
    size: int
    most: int
    used: int
    waiting: int
    holders: tuple[Holders, ...]
    itself: bool


def detect_pool_wait(wait: PoolWait, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for a wait of at least `settings.pool_wait` seconds; a critical one for any time-out."""
    if wait.seconds < settings.pool_wait and not wait.timed_out:
        return
    holders = tuple(_described(holders) for holders in wait.holders[:_MOST_HOLDERS])
    waiter = "A request" if wait.in_request else "Code outside of requests"
    end = " and timed out" if wait.timed_out else ""
    yield Finding(
        kind=Kind.POOL_WAIT,
        severity=Severity.CRITICAL if wait.timed_out else Severity.WARNING,
        subject=wait.pool,
        message=(
            f"{waiter} waited {wait.seconds:.3f} s for a connection{end}: {wait.used} of {wait.most} were in use"
            f"{', by ' + '; '.join(holders) if holders else ''}."
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


def _described(holders: Holders) -> str:
    """Return for example `/export (3, the longest for 12.000 s)`."""
    user = holders.route or "code outside of requests"
    return f"{user} ({holders.connections}, the longest for {holders.seconds:.3f} s)"


def _remedy(wait: PoolWait) -> str:
    if wait.itself:
        return (
            "Use one session for both statements: the request asked for a second connection while it kept its first,"
            " and once every connection is kept by such a request, they all deadlock."
        )
    longest = max(wait.holders, key=lambda holders: holders.seconds, default=None)
    where = f" in {longest.route}" if longest is not None and longest.route else ""
    return (
        f"Return the connection before awaiting other work{where}: commit or close the session first. If all"
        f" connections are busy with statements, raise pool_size in create_engine() above {wait.size}, within the"
        " database's limit."
    )
