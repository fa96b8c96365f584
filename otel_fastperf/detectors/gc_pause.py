"""`gc_pause`: the garbage collector stopped the process for longer than it should."""

import gc
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.settings import MemorySettings

#: a pause of so many seconds, or so large a share of the last minute, stops the others for longer than they can bear
_CRITICAL_SECONDS: Final = 1.0
_CRITICAL_SHARE: Final = 0.1

_TUNING: Final = (
    "call `gc.freeze()` at the end of start-up, so that what lives for ever is not walked again, and"
    " `gc.set_threshold(50_000, 20, 100)`, so that it runs less often"
)


class Pause(NamedTuple):
    """One collection that took long."""

    generation: int
    seconds: float
    #: what its thread has worked of that; the rest the machine was busy with others
    cpu_seconds: float
    #: objects that it freed
    collected: int
    #: it was asked for, by `gc.collect()`; False for one that the interpreter began by itself
    explicit: bool
    #: the application's line that asked for it, or that happened to allocate
    site: CallSite | None = None


def detect_gc_pause(pauses: Sequence[Pause], share: float, settings: MemorySettings) -> Iterator[Finding]:
    """The long ones among the pauses of one request, or one outside of requests, as one finding.

    `share` is the collector's share of the last minute, 0 to 1. An explicit collection is the fault of the line that
    asks for it. One that began by itself is the fault of nobody in particular: it walks everything that lives, in the
    request of whoever allocates next. Only time on the CPU makes a pause long: else a busy machine would.
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
    who = "`gc.collect()`" if pause.explicit else f"The garbage collector (generation {pause.generation})"
    return (
        f"{who} stopped the whole process for {pause.seconds * 1000:.0f} ms and freed {pause.collected:,} objects; the"
        f" collector took {share:.1%} of the last minute."
    )


def _remedy(pause: Pause) -> str:
    if pause.explicit:
        where = f" at {pause.site}" if pause.site is not None else ""
        return f"Take out the `gc.collect()`{where}: the collector runs by itself. Where that takes long, {_TUNING}."
    return f"Let the collector walk less: {_TUNING}; and keep big data in few objects, such as arrays and bytes."
