"""`gc_pause`: the garbage collector stopped the process for too long."""

import gc
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import MemorySettings

#: length in seconds and share of the last minute from which a pause is critical
_CRITICAL_SECONDS: Final = 1.0
_CRITICAL_SHARE: Final = 0.1

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


def detect_gc_pause(pauses: Sequence[Pause], share: float, settings: MemorySettings) -> Iterator[Finding]:
    """Yield one finding for the long pauses of one request, or for one long pause outside of requests.

    `share` is the collector's share of the last minute, 0 to 1. An explicit collection is attributed to the line that
    calls it. An automatic one has no line to blame: it walks all live objects, in whichever request allocates next.
    Only CPU time counts; otherwise a busy machine would make every pause long.
    """
    long = [pause for pause in pauses if pause.cpu_seconds >= settings.gc_pause]
    if not long:
        return
    worst = max(long, key=lambda pause: (pause.explicit, pause.seconds))
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
    yield Finding(
        kind=Kind.GC_PAUSE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        subject="gc.collect()" if worst.explicit else f"generation {worst.generation}",
        message=_message(worst, share),
        remedy=_remedy(worst),
        evidence=evidence,
        call_site=worst.site if worst.explicit else None,
        seconds=sum(pause.seconds for pause in long),
    )


def _message(pause: Pause, share: float) -> str:
    name = "`gc.collect()`" if pause.explicit else f"The garbage collector (generation {pause.generation})"
    return (
        f"{name} stopped the whole process for {pause.seconds * 1000:.0f} ms and freed {pause.collected:,} objects; the"
        f" collector took {share:.1%} of the last minute."
    )


def _remedy(pause: Pause) -> str:
    if pause.explicit:
        where = f" at {pause.site}" if pause.site is not None else ""
        return (
            f"Remove the `gc.collect()`{where}: the collector runs automatically. If its own runs take long, {_TUNING}."
        )
    return f"Reduce the collector's work: {_TUNING}. Keep big data in few objects, such as arrays and bytes."
