"""Calls that a function awaits one after the other, though none of them needs the result of another."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.findings import CallSite, Finding, Kind, Severity
from otel_fastperf.internals.source_code import are_independent, calls_at, is_in_loop
from otel_fastperf.requests.calls import Call
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ClientsSettings

#: calls that may run at the same time on one client; a database connection runs one statement at a time
_PARALLEL: Final = (Cause.HTTP_CLIENT, Cause.RPC, Cause.CACHE)
#: most calls of a request that are compared
_MOST: Final = 32


class SerialCalls:
    """The detector, which remembers the last requests of each route."""

    def __init__(self, settings: ClientsSettings, recurrence: Recurrence) -> None:
        self._settings = settings
        self._recurrence = recurrence

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """Yield a finding for the function whose calls would save most, if it has recurred on its route."""
        if record.scope["type"] == "websocket":
            return
        found = max(self._found(record), key=lambda series: series.saved, default=None)
        subjects = () if found is None else (found.lines[0],)
        recurring = self._recurrence.recurring(record, subjects)
        if found is not None and found.lines[0] in recurring:
            yield _finding(record, found)

    def _found(self, record: RequestRecord) -> Iterator["_Series"]:
        if record.calls is None:
            return
        least = max(self._settings.serial_calls, self._settings.serial_calls_share * record.own_seconds)
        workers: dict[int, list[Call]] = {}
        for call in tuple(record.calls.long)[:_MOST]:
            if call.lines and not call.failed and call.group.facts.cause in _PARALLEL and not call.group.facts.waits:
                workers.setdefault(call.worker, []).append(call)
        for calls in workers.values():
            if sum(call.own for call in calls) > least:
                yield from (series for series in _series(calls) if series.saved >= least)


class _Series(NamedTuple):
    """Calls that one function makes one after the other.

    Attributes:
        lines: Those of the function, in the order in which they ran; a line that makes several calls is there once.
        seconds: The time of each.
    """

    lines: tuple[CallSite, ...]
    calls: tuple[Call, ...]
    seconds: tuple[float, ...]

    @property
    def saved(self) -> float:
        """What would be saved if all ran at the same time."""
        return sum(self.seconds) - max(self.seconds)


def _series(calls: Sequence[Call]) -> Iterator[_Series]:
    """The series of independent calls of each function that led to several of them."""
    functions: dict[tuple[str, str], list[tuple[CallSite, Call]]] = {}
    for call in sorted(calls, key=lambda call: call.started):
        for site in call.lines:
            functions.setdefault((site.file, site.function), []).append((site, call))
    for made in functions.values():
        if len(made) > 1 and not any(is_in_loop(site) for site, _ in made):
            series = _independent(made)
            if len(series.seconds) > 1:
                yield series


def _independent(made: Sequence[tuple[CallSite, Call]]) -> _Series:
    """The first call, and each later one that does not need one before it."""
    chosen: list[tuple[CallSite, Call]] = []
    for site, call in made:
        if all(_may_run_together(other, site, made) for other, _ in chosen):
            chosen.append((site, call))
    lines = tuple(dict.fromkeys(site for site, _ in chosen))
    seconds = tuple(call.own for _, call in chosen)
    return _Series(lines, tuple(call for _, call in chosen), seconds)


def _may_run_together(earlier: CallSite, later: CallSite, made: Sequence[tuple[CallSite, Call]]) -> bool:
    if earlier == later:
        # the items of a list or dict, or the arguments of a function
        return sum(site == later for site, _ in made) <= calls_at(later)
    return are_independent(earlier, later)


def _finding(record: RequestRecord, series: _Series) -> Finding:
    names = tuple(dict.fromkeys(call.group.name for call in series.calls))
    number, total = len(series.seconds), sum(series.seconds)
    share = min(series.saved / record.own_seconds, 1.0) if record.own_seconds > 0 else 1.0
    site = series.lines[0]
    together = "a ThreadPoolExecutor" if series.calls[0].in_thread else "asyncio.gather()"
    return Finding(
        kind=Kind.SERIAL_CALLS,
        severity=Severity.INFO,
        subject=site.function,
        message=(
            f"{number} calls run one after the other for {total:.3f} s, and none uses the result of another: at the"
            f" same time they would take {max(series.seconds):.3f} s, {share:.0%} of the request less."
        ),
        remedy=f"If they do not depend on each other in another way, make them at the same time, with {together}.",
        evidence={
            "calls": names,
            "lines": tuple(str(line) for line in series.lines),
            "seconds": total,
            "saved": series.saved,
            "share": share,
        },
        call_site=site,
        seconds=series.saved,
    )
