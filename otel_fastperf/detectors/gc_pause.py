"""`gc_pause`: the garbage collector stopped the process for too long."""

import gc
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import MemorySettings

#: length in seconds and share of the last minute from which a pause is critical
_CRITICAL_SECONDS: Final = 1.0
_CRITICAL_SHARE: Final = 0.1
#: long pauses of the last minute, and the collector's share of it, from which the collector itself is at fault: every
#: service has some full collections, mostly after its start
_REPEATED: Final = 3
_REAL_SHARE: Final = 0.03
#: the share of the process's CPU time that it also takes. On a busy machine all code takes longer, so every service
#: with a large heap would reach a share of the time alone
_REAL_CPU_SHARE: Final = 0.1
#: the same on a machine that gives the process little CPU time: shares of the time, and of that CPU time
_SMALL_SHARE: Final = 0.01
_CPU_SHARE: Final = 0.2
#: full collections of one route that each freed as many objects, and their collector's share of the CPU time, from
#: which the route makes garbage that only the collector can free
_WASTEFUL: Final = 2
WASTE: Final = 20_000
_WASTE_CPU_SHARE: Final = 0.1

_TUNING: Final = (
    "call `gc.freeze()` at the end of start-up, so that long-lived objects are not walked again, and"
    " `gc.set_threshold(50_000, 20, 100)`, so that the collector runs less often"
)


class Pause(NamedTuple):
    """One long collection.

    Attributes:
        generation: The oldest generation that was collected.
        seconds: Duration.
        cpu_seconds: CPU time of its thread; for the rest of the duration the thread did not run.
        collected: Number of objects freed.
        explicit: True for a call of `gc.collect()`, False if the interpreter started the collection.
        site: The application's line that called `gc.collect()` or happened to allocate.
    """

    generation: int
    seconds: float
    cpu_seconds: float
    collected: int
    explicit: bool
    site: CallSite | None = None


class Recent(NamedTuple):
    """The last minute, or the time since the start if that is shorter.

    Attributes:
        share: The collector's share of it, 0 to 1.
        long: Number of long pauses.
        cpu_share: The collector's share of the process's CPU time.
    """

    share: float
    long: int
    cpu_share: float = 0.0

    @property
    def is_real(self) -> bool:
        """Whether the collector took a real share of time."""
        if self.share < _REAL_SHARE:
            return self.share >= _SMALL_SHARE and self.cpu_share >= _CPU_SHARE
        return self.cpu_share >= _REAL_CPU_SHARE


class Allocations(NamedTuple):
    """The route whose allocations started most of the long automatic collections of the last minute.

    Attributes:
        long: Number of these that it started.
        wasteful: Those of them that freed at least `WASTE` objects.
        site: The application's line that allocated; the endpoint if the framework did so for it.
        by_framework: The framework allocated, such as for the objects of a large body or response.
    """

    long: int
    wasteful: int = 0
    site: CallSite | None = None
    by_framework: bool = False


def detect_gc_pause(
    pauses: Sequence[Pause],
    recent: Recent,
    settings: MemorySettings,
    *,
    in_request: bool,
    allocations: Allocations | None = None,
) -> Iterator[Finding]:
    """Yield one finding for the long pauses of one request, or for one long pause outside of requests.

    An explicit collection is attributed to the line that calls it. An automatic one is a finding if it repeats and
    takes a real share of time. It walks all live objects, in whichever request allocates next, so only a route that
    starts most of them, by its `allocations`, is to blame. An explicit one outside of requests, such as before
    `gc.freeze()`, is a finding if it repeats. Only CPU time counts; otherwise a busy machine would make every pause
    long.
    """
    long = [pause for pause in pauses if pause.cpu_seconds >= settings.gc_pause]
    if not long:
        return
    worst = max(long, key=lambda pause: (pause.explicit, pause.seconds))
    share = recent.share
    if worst.explicit:
        allocations = None
        if not in_request and recent.long < _REPEATED:
            return
    elif not _is_at_fault(recent, allocations):
        return
    critical = worst.seconds >= _CRITICAL_SECONDS or share >= _CRITICAL_SHARE
    evidence: dict[str, str | int | float | bool] = {
        "pause_seconds": round(worst.seconds, 4),
        "cpu_seconds": round(worst.cpu_seconds, 4),
        "generation": worst.generation,
        "collected": worst.collected,
        "explicit": worst.explicit,
        "pauses": len(long),
        "share_of_last_minute": round(share, 4),
        "thresholds": ", ".join(map(str, gc.get_threshold())),
    }
    if worst.site is not None and not worst.explicit:
        evidence["allocating"] = str(worst.site)
    if allocations is not None:
        evidence["in_route"] = allocations.long
    yield Finding(
        kind=Kind.GC_PAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        subject="gc.collect()" if worst.explicit else f"generation {worst.generation}",
        message=_message(worst, recent, allocations),
        remedy=_remedy(worst, allocations),
        evidence=evidence,
        call_site=worst.site if worst.explicit else None if allocations is None else allocations.site,
        seconds=sum(pause.seconds for pause in long),
    )


def _is_at_fault(recent: Recent, allocations: Allocations | None) -> bool:
    if recent.long >= _REPEATED and recent.is_real:
        return True
    if allocations is None or allocations.wasteful < _WASTEFUL:
        return False
    return recent.share >= _SMALL_SHARE and recent.cpu_share >= _WASTE_CPU_SHARE


def _message(pause: Pause, recent: Recent, allocations: Allocations | None) -> str:
    name = "`gc.collect()`" if pause.explicit else f"The garbage collector (generation {pause.generation})"
    started = ""
    if allocations is not None:
        started = f" Objects that this route makes started {allocations.long} of its {recent.long} long collections."
    return (
        f"{name} stopped the whole process for {pause.seconds * 1000:.0f} ms and freed {pause.collected:,} objects; the"
        f" collector took {recent.share:.1%} of the last minute.{started}"
    )


def _remedy(pause: Pause, allocations: Allocations | None) -> str:
    if pause.explicit:
        where = f" at {pause.site}" if pause.site is not None else ""
        return (
            f"Remove the `gc.collect()`{where}: the collector runs automatically. If its own runs take long, {_TUNING}."
        )
    if allocations is None:
        return f"Reduce the collector's work: {_TUNING}. Keep big data in few objects, such as arrays and bytes."
    if allocations.wasteful:
        return (
            f"Make fewer objects that refer to each other in cycles, which only the collector frees: use `weakref` for"
            f" one direction, or plain data. Then {_TUNING}."
        )
    much = "The body or the response is large: " if allocations.by_framework else ""
    make = "make" if much else "Make"
    return (
        f"{much}{make} fewer objects per request: fewer rows, columns instead of entities, and a large response in"
        f" pages or streamed. Then {_TUNING}."
    )
