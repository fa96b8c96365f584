"""Code held the event loop: whoever waited for it, and every request that came in meanwhile, was not served."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import LoopSettings

#: from this many seconds on it is critical: a person waits, and a health check may fail
_CRITICAL: Final = 1.0
#: to be kept from running for less than this many seconds is what a busy machine, or process, does to all
_KEPT: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLoop:
    """The event loop was held once, and is free again."""

    seconds: float
    cause: BlockedBy
    #: the line to change; None where no line of the application is to blame
    call_site: CallSite | None = None
    #: lines of the application meanwhile, innermost first
    frames: tuple[CallSite, ...] = ()
    #: the route template of the request that held it; "" when it was none
    route: str = ""
    #: other requests that were in flight
    waiting: int = 0
    #: seconds of it for which the code is not to blame, see `blocked.lost`
    lost: float = 0.0
    #: a statement of SQLAlchemy's was with a synchronous driver
    in_database: bool = False


def detect_blocking_call(blocked: BlockedLoop, settings: LoopSettings) -> Iterator[Finding]:
    """One finding from `settings.blocked` on, for what neither `gc_pause` nor `sync_db_on_loop` tells of."""
    if blocked.cause is BlockedBy.GC or blocked.in_database:
        return
    least = max(settings.blocked, _KEPT) if _is_kept(blocked) else settings.blocked
    if blocked.seconds - blocked.lost < least:
        return
    yield Finding(
        kind=Kind.BLOCKING_CALL,
        severity=Severity.CRITICAL if blocked.seconds >= _CRITICAL else Severity.WARNING,
        subject=_subject(blocked),
        message=f"{_told(blocked)}; {_waiting(blocked.waiting)}.",
        remedy=_remedy(blocked),
        evidence={
            "seconds": blocked.seconds,
            "cause": blocked.cause.value,
            "frames": tuple(map(str, blocked.frames)),
            "waiting_requests": blocked.waiting,
        },
        call_site=blocked.call_site,
        seconds=blocked.seconds,
        route=blocked.route,
    )


def _is_kept(blocked: BlockedLoop) -> bool:
    """True when other threads, or other processes, kept the loop's thread from running."""
    return blocked.cause is BlockedBy.DESCHEDULED or (blocked.cause is BlockedBy.GIL_HELD and blocked.call_site is None)


def _subject(blocked: BlockedLoop) -> str:
    if blocked.call_site is not None:
        return blocked.call_site.function
    return "process" if blocked.cause is BlockedBy.DESCHEDULED else "event loop"


def _told(blocked: BlockedLoop) -> str:
    if blocked.cause is BlockedBy.DESCHEDULED:
        return f"the process did not run for {blocked.seconds:.2f} s ({blocked.cause})"
    if blocked.cause is BlockedBy.GIL_HELD and blocked.call_site is None:
        return f"other threads kept the GIL from the event loop for {blocked.seconds:.2f} s ({blocked.cause})"
    return f"code held the event loop for {blocked.seconds:.2f} s ({blocked.cause})"


def _waiting(number: int) -> str:
    return f"{number} other request{'' if number == 1 else 's'} waited"


def _remedy(blocked: BlockedLoop) -> str:
    function = blocked.call_site.function if blocked.call_site is not None else "it"
    match blocked.cause:
        case BlockedBy.SYNC_IO:
            return (
                f"await an async client instead of the blocking call in {function}, run the call with"
                " `await asyncio.to_thread(...)`, or make the endpoint `def`, so that it runs in a thread"
            )
        case BlockedBy.CPU:
            return (
                f"move what {function} computes into a process, with `loop.run_in_executor` and a ProcessPoolExecutor,"
                " or at least off the event loop, with `await asyncio.to_thread(...)`"
            )
        case BlockedBy.GIL_HELD if blocked.call_site is None:
            return (
                "move what computes in threads, `def` endpoints among them, into a ProcessPoolExecutor or more workers"
            )
        case BlockedBy.GIL_HELD:
            return (
                f"run the call into C code in {function} in a ProcessPoolExecutor, or on smaller pieces of data: it"
                " keeps the GIL, so a thread does not help"
            )
        case _:
            return (
                "raise the CPU limit of the container, or start fewer workers: the process was stopped, throttled, or"
                " had to wait for a processor"
            )
