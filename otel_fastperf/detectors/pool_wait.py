"""A wait for a database connection while all connections of the pool are in use."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from otel_fastperf.detectors.repeated_waits import ONCE
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import DatabaseSettings

#: most routes in message and evidence
_MOST_HOLDERS = 5
#: connections of one request, in tasks or threads of its own, from which it is the request that exhausts the pool
_PARALLEL = 3


class Holders(NamedTuple):
    """The connections in use by one route.

    Attributes:
        route: Method and template; "" outside of routes.
        connections: Their number.
        seconds: How long the one that was checked out first has been in use.
    """

    route: str
    connections: int
    seconds: float


class Leaks(NamedTuple):
    """Connections that requests of one route have kept although they ended.

    Attributes:
        connections: Their number.
        seconds: How long the one that was checked out first has been kept.
        site: The line that checked one out; None if it was not looked up.
    """

    route: str
    connections: int
    seconds: float
    site: CallSite | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolWait:
    """A wait for a connection that began when all were in use, and has ended.

    Attributes:
        pool: Name of the pool.
        seconds: Duration, without the time to open a new connection, and without that in which the loop was blocked.
        timed_out: The wait ended without a connection.
        in_request: A request waited, not code outside of requests.
        size: Number of connections that the pool keeps open.
        most: Most connections it may open, including `max_overflow`.
        used: Connections in use when the wait began.
        waiting: Others that are still waiting.
        holders: The users of the connections.
        itself: The task or thread that waits has a connection of this pool already.
        parallel: Most connections that one request uses in several tasks or threads at once.
        leaks: Connections that were never given back, by route, most first.
        repeated: It is one of several such waits.
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
    itself: bool = False
    parallel: int = 0
    leaks: tuple[Leaks, ...] = ()
    repeated: bool = True


def detect_pool_wait(wait: PoolWait, settings: DatabaseSettings) -> Iterator[Finding]:
    """Yield a finding for a wait of at least `settings.pool_wait` seconds; a critical one for any time-out.

    One that happened once has to be longer, unless the request waits for its own connection.
    """
    least = settings.pool_wait if wait.repeated or wait.itself else ONCE * settings.pool_wait
    if wait.seconds < least and not wait.timed_out:
        return
    holders = tuple(_described(holders) for holders in wait.holders[:_MOST_HOLDERS])
    waiter = "A request" if wait.in_request else "Code outside of requests"
    end = " and timed out" if wait.timed_out else ""
    finding = Finding(
        kind=Kind.POOL_WAIT,
        severity=Severity.CRITICAL if wait.timed_out else Severity.WARNING,
        subject=wait.pool,
        message=(
            f"{waiter} waited {wait.seconds:.3f} s for a connection{end}: {wait.used} of {wait.most} were in use"
            f"{', by ' + '; '.join(holders) if holders else ''}.{_reason(wait)}"
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
            **_keeper(wait),
        },
        seconds=wait.seconds,
    )
    yield _of_leak(finding, wait.leaks) if wait.leaks else finding


def _keeper(wait: PoolWait) -> dict[str, str | float]:
    """The route that has most of the connections, unless they were leaked or the request waits for its own."""
    if wait.leaks or wait.itself or not wait.holders or not wait.holders[0].route:
        return {}
    return {"held_by": wait.holders[0].route, "held_seconds": wait.holders[0].seconds}


def _of_leak(finding: Finding, leaks: tuple[Leaks, ...]) -> Finding:
    """The finding belongs to the route that leaks, at the line that opened what was never closed."""
    # what follows the path in a route may contain spaces
    method, _, route = ("", "", text) if (text := leaks[0].route).startswith("/") else text.partition(" ")
    lines = tuple(str(leak.site) for leak in leaks if leak.site is not None)[:_MOST_HOLDERS]
    return replace(
        finding,
        method=method,
        route=route,
        call_site=leaks[0].site,
        evidence={**finding.evidence, "leaked": sum(leak.connections for leak in leaks), "leaked_at": lines},
    )


def _described(holders: Holders) -> str:
    """Return for example `GET /export (3, the longest for 12.000 s)`."""
    user = holders.route or "code outside of requests"
    return f"{user} ({holders.connections}, the longest for {holders.seconds:.3f} s)"


def _reason(wait: PoolWait) -> str:
    if wait.leaks:
        leaked = sum(leak.connections for leak in wait.leaks)
        where = "; ".join(
            f"{leak.connections} by {leak.route or 'an unknown route'}{f' at {leak.site}' if leak.site else ''}"
            for leak in wait.leaks[:_MOST_HOLDERS]
        )
        return (
            f" {leaked} of them leaked: their requests ended without giving them back, the first was checked out"
            f" {max(leak.seconds for leak in wait.leaks):.1f} s ago ({where})."
        )
    if not wait.itself and wait.parallel >= _PARALLEL:
        return f" One request alone uses {wait.parallel} of them at once, in parallel tasks."
    return ""


def _remedy(wait: PoolWait) -> str:
    if wait.leaks:
        site = wait.leaks[0].site
        return (
            f"Close the session or connection that {site or f'a request to {wait.leaks[0].route}'} opens, also when it"
            " fails: open it in `with` or `async with`, or in a dependency that yields it from there. A larger pool"
            " only postpones the time-outs."
        )
    if wait.itself:
        return (
            "Use one session for both statements: the request asked for a second connection while it kept its first,"
            " and once every connection is kept by such a request, they all deadlock."
        )
    if wait.parallel >= _PARALLEL:
        return (
            "Read the rows of all items with one statement in one session (WHERE … IN (…)) instead of a session for"
            " each item in parallel tasks. If the statements differ, let a semaphore admit fewer of them than the pool"
            f" has connections ({wait.most})."
        )
    longest = max(wait.holders, key=lambda holders: holders.seconds, default=None)
    where = f" in {longest.route}" if longest is not None and longest.route else ""
    return (
        f"Return the connection before awaiting other work{where}: commit or close the session first. If all"
        f" connections are busy with statements, raise pool_size in create_engine() above {wait.size}, within the"
        " database's limit."
    )
