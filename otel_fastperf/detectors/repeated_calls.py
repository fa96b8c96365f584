"""A call to another service that one line makes once per item, where one call, or parallel calls, could do."""

from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.calls import CallGroup, Lines
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ClientsSettings

#: minimum share of the time between the first and the last repeat; below it the time goes elsewhere
_LEAST_SHARE: Final = 0.02
#: the same, without the longest, where the calls may be equal to each other, and where they are equal reads: polls of a
#: state are short in comparison to the pauses in between
_LEAST_SHARE_OF_UNKNOWN: Final = 0.3
_LEAST_SHARE_OF_EQUAL: Final = 0.5
#: mean seconds between two calls up to which nobody waits in between
_NO_PAUSE: Final = 0.001
#: methods whose equal requests have equal answers, unless the client waits for something to happen
_READS: Final = ("GET", "HEAD", "OPTIONS")
#: mean seconds from which equal reads may be long polls
_LONG_POLL: Final = 1.0

#: minimum share of the request, and minimum seconds, for a critical finding
_CRITICAL_SHARE: Final = 0.5
_CRITICAL_SECONDS: Final = 0.5


def detect_repeated_calls(record: RequestRecord, settings: ClientsSettings) -> Iterator[Finding]:
    """Yield a finding for each line that repeats a call `settings.n_plus_one` times, one after the other.

    Pages of a list, polls, calls that repeat one that has failed, and parallel calls do not count, and neither do
    websockets, which repeat calls by nature.
    """
    if record.calls is None or record.scope["type"] == "websocket":
        return
    for group in tuple(record.calls.groups.values()):
        if group.sequential < settings.n_plus_one or not _is_one_per_item(group):
            continue
        for lines, repeats, seconds in _by_lines(group):
            if lines and repeats >= settings.n_plus_one and seconds >= settings.n_plus_one_seconds:
                yield _finding(record, group, lines, repeats, seconds)


def _is_one_per_item(group: CallGroup) -> bool:
    facts = group.facts
    if facts.pages or facts.waits:
        return False
    if len(group.targets) > 1:
        return group.seconds >= _LEAST_SHARE * (group.last - group.first)
    are_equal = facts.system == "http" and facts.operation in _READS
    if are_equal and group.seconds / group.count > _LONG_POLL:
        return False
    total = group.last - group.first - group.overhead
    least = _LEAST_SHARE_OF_EQUAL if are_equal else _LEAST_SHARE_OF_UNKNOWN
    return group.seconds - group.slowest >= least * total or total - group.seconds <= _NO_PAUSE * group.count


def _by_lines(group: CallGroup) -> Iterator[tuple[Lines, int, float]]:
    """Repeats by the lines that led to them. Those that were not looked up belong to the only lines that are known."""
    if len(group.lines) == 1:
        yield next(iter(group.lines)), group.count, group.seconds
        return
    for lines, (repeats, seconds) in tuple(group.lines.items()):
        yield lines, int(repeats), seconds


def _finding(record: RequestRecord, group: CallGroup, lines: Lines, repeats: int, seconds: float) -> Finding:
    share = min(seconds / record.seconds, 1.0) if record.ended else 0.0
    critical = share >= _CRITICAL_SHARE and seconds >= _CRITICAL_SECONDS
    evidence: dict[str, str | int | float] = {
        "repeats": repeats,
        "seconds": seconds,
        "share": share,
        "call": group.name,
        "server.address": group.facts.peer,
    }
    # the line to change is the loop's; that of the call may be a function's that every caller shares
    site = group.loop or lines[0]
    if site != lines[0]:
        evidence["line"] = str(lines[0])
    where = "" if site == lines[0] else f", at {lines[0]}"
    return Finding(
        kind=Kind.N_PLUS_ONE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        subject=group.name,
        message=f"{group.name!r} was called {repeats} times, {seconds:.3f} s in total: once per item, one after the"
        f" other{where}.",
        remedy=_remedy(group),
        evidence=evidence,
        call_site=site,
        seconds=seconds,
    )


def _remedy(group: CallGroup) -> str:
    facts = group.facts
    if facts.cause == Cause.CACHE:
        if facts.operation.upper() == "GET":
            return "Read all keys at once: MGET, or a pipeline."
        return "Send all commands at once, with a pipeline."
    if facts.cause == Cause.DB:
        return "Read or write all of them with one statement: WHERE … IN (…) or = ANY(…), or executemany()."
    if facts.cause == Cause.MESSAGING:
        return "Send all messages as one batch, or without awaiting each confirmation."
    return (
        f"Ask {facts.peer} for all of them with one call, if it can answer that, or make the calls at the same time:"
        " asyncio.gather(), with a Semaphore as a limit; in a `def` endpoint, a ThreadPoolExecutor."
    )
