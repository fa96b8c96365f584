"""`def` endpoints and dependencies waited for a thread of anyio's pool."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from otel_fastperf.detectors.repeated_waits import ONCE
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import ThreadsSettings

#: share of the threads that code of the application has to occupy for a wait of less than `_LONG` seconds: otherwise it
#: is the machine that is busy
_OCCUPIED: Final = 0.5
_LONG: Final = 0.5
#: most occupants in message and evidence
_MOST_OCCUPANTS: Final = 5


class Occupant(NamedTuple):
    """Threads of the pool that one line of the application occupied while the request waited.

    Attributes:
        function: The function that the thread was borrowed for, usually an endpoint or a dependency.
        route: Method and template of the requests in flight whose endpoint that is; "" if there are none.
        threads: Their number.
        site: The line that was running.
    """

    function: str
    threads: int
    site: CallSite
    route: str = ""


@dataclass(frozen=True, slots=True)
class ThreadWait:
    """One request's wait for a thread, which has just ended.

    Attributes:
        seconds: Duration, without the time in which the event loop was blocked.
        limit: Size of the pool; all of its threads were busy.
        waiting: Number of requests that still wait.
        occupants: What the threads did meanwhile, most threads first; empty if no line of the application was seen.
        repeated: It is one of several such waits.
    """

    seconds: float
    limit: int
    waiting: int
    occupants: tuple[Occupant, ...] = ()
    repeated: bool = True


def detect_threadpool_wait(wait: ThreadWait, settings: ThreadsSettings) -> Iterator[Finding]:
    """A finding for a wait of at least `settings.wait` seconds; for longer, if it happened once.

    Its line is the one that occupies most threads.
    """
    least = settings.wait if wait.repeated else ONCE * settings.wait
    if wait.seconds < least or (wait.seconds < _LONG and not _is_occupied(wait)):
        return
    others = f"; {wait.waiting} more wait" if wait.waiting else ""
    occupants = tuple(_described(occupant) for occupant in wait.occupants[:_MOST_OCCUPANTS])
    by = f", {'; '.join(occupants)}" if occupants else ""
    yield Finding(
        kind=Kind.THREADPOOL_WAIT,
        severity=Severity.WARNING,
        subject="anyio's default limiter",
        message=f"A request waited {wait.seconds:.3f} s for one of {wait.limit} threads, all of them busy{by}{others}.",
        remedy=_remedy(wait),
        evidence={
            "wait_seconds": wait.seconds,
            "limit": wait.limit,
            "waiting": wait.waiting,
            "occupants": occupants,
            **({"held_by": wait.occupants[0].route} if wait.occupants and wait.occupants[0].route else {}),
        },
        call_site=wait.occupants[0].site if wait.occupants else None,
        seconds=wait.seconds,
    )


def _is_occupied(wait: ThreadWait) -> bool:
    return sum(occupant.threads for occupant in wait.occupants) >= _OCCUPIED * wait.limit


def _described(occupant: Occupant) -> str:
    """Return for example `38 in print_label (GET /label) at shop/labels.py:34 in print`."""
    return f"{occupant.threads} in {_user(occupant)} at {occupant.site}"


def _user(occupant: Occupant) -> str:
    return f"{occupant.function} ({occupant.route})" if occupant.route else occupant.function


def _remedy(wait: ThreadWait) -> str:
    limit = f"anyio.to_thread.current_default_thread_limiter().total_tokens = {2 * wait.limit}"
    if not wait.occupants:
        return (
            "Find the `def` endpoints and dependencies that take long: shorten them, or make them `async def` with an"
            f" async client. Else raise the limit at start-up: {limit}"
        )
    first = wait.occupants[0]
    return (
        f"Free the threads that {_user(first)} occupies: if it waits at {first.site}, make it `async def` and await"
        f" an async client there; if it computes, shorten it. Else raise the limit at start-up: {limit}"
    )
