"""Code blocked the event loop: no other request of the worker made progress meanwhile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from otel_fastperf.detectors import blocking_remedy
from otel_fastperf.event_loop.cause import BlockedBy
from otel_fastperf.event_loop.stack_sampler import Coroutine, LoopWork
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import LoopSettings

#: seconds from which a block is critical: a person notices it, and a health check may fail
_CRITICAL: Final = 1.0
#: minimum seconds of a block without a line of the application, or by imports: a busy machine keeps any thread from
#: running for less than this, and a framework and its libraries do some work once, for the first request
_LONG: Final = 1.0
#: seconds without a processor that are a finding although they happened once: a machine that is busy for a moment keeps
#: a process waiting for a second or two, and nobody can mend that
_FROZEN: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLoop:
    """One block of the event loop that has ended.

    Attributes:
        call_site: The line to change; None if no line of the application caused the block.
        frames: Application frames during the block, innermost first.
        route: Route template of the request that caused it; "" if no request did.
        method: Its method.
        waiting: Number of other requests in flight.
        lost: Seconds not caused by the code, see `cause.lost`.
        on_rows: The code computed with the rows of a large result.
        work: What kind of work it was.
        coroutine: The coroutine of the application that did or called it.
        library: The function of a library that did it; "" if unknown.
        code: Text of the innermost line of the application.
        by_others: Other threads computed with the GIL.
        repeated: The same code of a library has computed on the loop before; without a processor: it was so often.
    """

    seconds: float
    cause: BlockedBy
    call_site: CallSite | None = None
    frames: tuple[CallSite, ...] = ()
    route: str = ""
    method: str = ""
    waiting: int = 0
    lost: float = 0.0
    work: LoopWork = LoopWork.OTHER
    coroutine: Coroutine | None = None
    library: str = ""
    code: str = ""
    by_others: bool = False
    repeated: bool = False
    on_rows: bool = False


def detect_blocking_call(blocked: BlockedLoop, settings: LoopSettings) -> Iterator[Finding]:
    """A finding for a block of at least `settings.blocked`, unless another kind reports it.

    That is `gc_pause`, `sync_db_on_loop` or `large_result`.
    """
    if blocked.cause is BlockedBy.GC or blocked.work is LoopWork.IN_DATABASE or blocked.on_rows:
        return
    starved = blocked.cause is BlockedBy.DESCHEDULED
    if starved and not blocked.repeated and blocked.seconds < _FROZEN:
        return
    repeated = blocked.repeated and not (blocked.by_others or starved)
    may_be_nobody_s = (blocked.call_site is None and not repeated) or blocked.work is LoopWork.IMPORTING
    least = max(settings.blocked, _LONG) if may_be_nobody_s else settings.blocked
    if blocked.seconds - _lost(blocked) < least:
        return
    yield Finding(
        kind=Kind.BLOCKING_CALL,
        severity=Severity.CRITICAL if blocked.seconds >= _CRITICAL else Severity.WARNING,
        subject=_subject(blocked),
        message=f"{_what_happened(blocked)}; {_waiting(blocked.waiting)}.",
        remedy=_remedy(blocked),
        evidence=_evidence(blocked),
        call_site=blocked.call_site,
        seconds=blocked.seconds,
        # the request that ran was not the reason
        route="" if starved else blocked.route,
        method="" if starved else blocked.method,
    )


def _lost(blocked: BlockedLoop) -> float:
    # a machine that is at fault loses no time by itself
    return 0.0 if blocked.cause is BlockedBy.DESCHEDULED or blocked.by_others else blocked.lost


def _evidence(blocked: BlockedLoop) -> dict[str, str | float | tuple[str, ...]]:
    evidence: dict[str, str | float | tuple[str, ...]] = {
        "seconds": blocked.seconds,
        "cause": blocked.cause.value,
        "frames": tuple(map(str, blocked.frames)),
        "waiting_requests": blocked.waiting,
    }
    if blocked.coroutine is not None:
        evidence["coroutine"] = str(blocked.coroutine.site)
    if blocked.library:
        evidence["library_function"] = blocked.library
    return evidence


def _subject(blocked: BlockedLoop) -> str:
    if blocked.call_site is not None:
        return blocked.call_site.function
    return "process" if blocked.cause is BlockedBy.DESCHEDULED else "event loop"


def _what_happened(blocked: BlockedLoop) -> str:
    seconds = f"for {blocked.seconds:.2f} s ({blocked.cause})"
    if blocked.cause is BlockedBy.DESCHEDULED:
        return f"The event loop got no processor {seconds}"
    if blocked.by_others:
        return f"Other threads kept the GIL from the event loop {seconds}"
    if blocked.call_site is None:
        doing = f" in `{blocked.library}`" if blocked.library else ""
        what = "A call into C code" if blocked.cause is BlockedBy.GIL_HELD else "Code"
        return f"{what}{doing} blocked the event loop {seconds}; no line of the application was seen"
    if blocked.work is LoopWork.SERIALIZING:
        return (
            f"Turning the return value of {blocked.call_site.function} into a response blocked the event loop {seconds}"
        )
    if blocked.work is LoopWork.IMPORTING:
        return f"Imports blocked the event loop {seconds}"
    return f"Code blocked the event loop {seconds}{_called_by(blocked)}"


def _called_by(blocked: BlockedLoop) -> str:
    coroutine = blocked.coroutine
    if coroutine is None or blocked.call_site is None or coroutine.site.function == blocked.call_site.function:
        return ""
    kind = coroutine.caller if coroutine.caller == "dependency" else "coroutine"
    return f", called by the {kind} {coroutine.site.function} at {coroutine.site}".removesuffix(
        f" in {coroutine.site.function}"
    )


def _waiting(number: int) -> str:
    return f"{number} other request{'' if number == 1 else 's'} waited"


def _remedy(blocked: BlockedLoop) -> str:
    if blocked.cause is BlockedBy.DESCHEDULED or blocked.by_others:
        return blocking_remedy.OF_OTHER_THREADS if blocked.by_others else blocking_remedy.OF_STARVATION
    match blocked.work, blocked.call_site:
        case (LoopWork.IMPORTING | LoopWork.LOGGING) as work, _:
            return blocking_remedy.OF_LOGGING if work is LoopWork.LOGGING else blocking_remedy.OF_IMPORTS
        case _, None:
            return blocking_remedy.OF_LIBRARIES
        case LoopWork.SERIALIZING, CallSite(function=function):
            return blocking_remedy.remedy_of_serializing(function)
        case LoopWork.READING, CallSite(function=function):
            return blocking_remedy.remedy_of_reading(function)
        case _, CallSite(function=function):
            return _remedy_of_code(blocked, function)


def _remedy_of_code(blocked: BlockedLoop, function: str) -> str:
    coroutine, code = blocked.coroutine, f"{blocked.library}( {blocked.code}"
    name, caller = ("", "") if coroutine is None else (coroutine.site.function, coroutine.caller)
    if coroutine is not None and coroutine.awaits and coroutine.site == blocked.call_site:
        return blocking_remedy.remedy_of_awaiting(function, blocked.library)
    offloaded = blocking_remedy.offload(function, name, caller)
    if blocked.cause is BlockedBy.SYNC_IO:
        return blocking_remedy.remedy_of_waiting(function, code, offloaded)
    keeps_gil = blocked.cause is BlockedBy.GIL_HELD
    return blocking_remedy.remedy_of_computing(function, code, keeps_gil=keeps_gil, offloaded=offloaded)
