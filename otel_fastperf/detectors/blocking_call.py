"""Code blocked the event loop: no other request of the worker made progress meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import LoopSettings

#: seconds from which a block is critical: a person notices it, and a health check may fail
_CRITICAL: Final = 1.0
#: seconds; a busy machine or process keeps any thread from running for less than this
_KEPT: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLoop:
    """One block of the event loop that has ended.

    Attributes:
        call_site: The line to change; None if no line of the application caused the block.
        frames: Application frames during the block, innermost first.
        route: Route template of the request that caused it; "" if no request did.
        waiting: Number of other requests in flight.
        lost: Seconds not caused by the code, see `cause.lost`.
        in_database: A statement of SQLAlchemy was in a synchronous driver.
    """

    seconds: float
    cause: BlockedBy
    call_site: CallSite | None = None
    frames: tuple[CallSite, ...] = ()
    route: str = ""
    waiting: int = 0
    lost: float = 0.0
    in_database: bool = False


def detect_blocking_call(blocked: BlockedLoop, settings: LoopSettings) -> Iterator[Finding]:
    """A finding for a block of at least `settings.blocked`, unless `gc_pause` or `sync_db_on_loop` reports it."""
    if blocked.cause is BlockedBy.GC or blocked.in_database:
        return
    least = max(settings.blocked, _KEPT) if _is_kept(blocked) else settings.blocked
    if blocked.seconds - blocked.lost < least:
        return
    yield Finding(
        kind=Kind.BLOCKING_CALL,
        severity=Severity.CRITICAL if blocked.seconds >= _CRITICAL else Severity.WARNING,
        subject=_subject(blocked),
        message=f"{_what_happened(blocked)}; {_waiting(blocked.waiting)}.",
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


def _what_happened(blocked: BlockedLoop) -> str:
    if blocked.cause is BlockedBy.DESCHEDULED:
        return f"The process did not run for {blocked.seconds:.2f} s ({blocked.cause})"
    if blocked.cause is BlockedBy.GIL_HELD and blocked.call_site is None:
        return f"Other threads kept the GIL from the event loop for {blocked.seconds:.2f} s ({blocked.cause})"
    return f"Code blocked the event loop for {blocked.seconds:.2f} s ({blocked.cause})"


def _waiting(number: int) -> str:
    return f"{number} other request{'' if number == 1 else 's'} waited"


def _remedy(blocked: BlockedLoop) -> str:
    function = blocked.call_site.function if blocked.call_site is not None else "the request"
    match blocked.cause:
        case BlockedBy.SYNC_IO:
            return (
                f"Await an async client instead of the blocking call in {function}, run the call with"
                " `await asyncio.to_thread(...)`, or make the endpoint `def`, so that it runs in a thread."
            )
        case BlockedBy.CPU:
            return (
                f"Move the computation in {function} to another process with `loop.run_in_executor` and a"
                " ProcessPoolExecutor, or at least off the event loop with `await asyncio.to_thread(...)`."
            )
        case BlockedBy.GIL_HELD if blocked.call_site is None:
            return "Move computations from threads, `def` endpoints included, to a ProcessPoolExecutor, or add workers."
        case BlockedBy.GIL_HELD:
            return (
                f"Run the call into C code in {function} in a ProcessPoolExecutor, or on smaller pieces of data. It"
                " keeps the GIL, so a thread does not help."
            )
        case _:
            return (
                "Raise the CPU limit of the container, or start fewer workers: the process was stopped, throttled, or"
                " had to wait for a processor."
            )
