"""A slow COMMIT, or one COMMIT for each row of a loop."""

from collections.abc import Iterable, Iterator
from typing import Final

from otel_fastperf.detectors.recurrence import Recurrence
from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.record import RequestRecord, TransactionEnds
from otel_fastperf.settings import DatabaseSettings

#: minimum share of the request, and minimum seconds, of COMMITs that one line repeats. Work in large portions, each
#: with a COMMIT, stays below
_LEAST_SHARE: Final = 0.05
_LEAST_SECONDS: Final = 0.001
#: minimum share of the request of one slow COMMIT
_SLOW_SHARE: Final = 0.3
#: minimum share of the request, and minimum seconds, for a critical finding
_CRITICAL_SHARE: Final = 0.5
_CRITICAL_SECONDS: Final = 0.5


class SlowCommits:
    """A detector that remembers whether the ends of transactions of each route were slow.

    A single slow one is a checkpoint or a busy disk, however slow it is.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._recurrence = Recurrence()

    def __call__(self, record: RequestRecord) -> Iterable[Finding]:
        """The finding of one finished request. Called on the event loop's thread or the backlog's."""
        ends = record.transaction_ends
        # websockets last, and repeat by nature
        return () if ends is None or record.scope["type"] == "websocket" else self._judged(record, ends)

    def _judged(self, record: RequestRecord, ends: TransactionEnds) -> Iterator[Finding]:
        repeated = tuple(_repeated(record, ends, self._settings))
        yield from repeated
        is_slow = ends.slowest >= max(self._settings.slow_commit, _SLOW_SHARE * record.own_seconds)
        recurs = self._recurrence.recurring(record, (ends.slowest_operation,) if is_slow else ())
        if recurs and not repeated:
            yield _slow(record, ends)


def _repeated(record: RequestRecord, ends: TransactionEnds, settings: DatabaseSettings) -> Iterator[Finding]:
    """A finding for each line that repeats a COMMIT."""
    if ends.commits < settings.commits:
        return
    # if only one line is known, the COMMITs that were not looked up are its own
    lines = tuple(ends.lines.items())
    if len(lines) == 1:
        lines = ((lines[0][0], [ends.commits, ends.commit_seconds]),)
    for site, (times, seconds) in lines:
        if times < settings.commits or seconds < max(_LEAST_SECONDS, _LEAST_SHARE * record.own_seconds):
            continue
        share = _share(record, seconds)
        yield Finding(
            kind=Kind.SLOW_COMMIT,
            severity=_severity(share, seconds),
            subject="COMMIT in a loop",
            message=f"One line committed {int(times)} times, {seconds:.3f} s in total: {share:.0%} of the request.",
            remedy=(
                "Commit once, after the loop: the database writes its log to disk for each COMMIT. Portions of 1,000"
                " rows keep a very large transaction short. If each row must survive the failure of the next, use"
                " a savepoint for each: begin_nested()."
            ),
            evidence={"commits": int(times), "seconds": seconds, "share": share},
            call_site=site,
            seconds=seconds,
        )


def _slow(record: RequestRecord, ends: TransactionEnds) -> Finding:
    seconds, operation, site = ends.slowest, ends.slowest_operation, ends.slowest_site
    share = _share(record, seconds)
    return Finding(
        kind=Kind.SLOW_COMMIT,
        severity=_severity(share, seconds),
        subject=operation,
        message=f"One {operation} took {seconds:.3f} s: {share:.0%} of the request.",
        remedy=_remedy(operation),
        evidence={"seconds": seconds, "share": share, "commits": ends.commits},
        call_site=site,
        seconds=seconds,
    )


def _remedy(operation: str) -> str:
    if operation != "COMMIT":
        return "Find out what the database undoes: a large transaction that fails late. Check first, and write then."
    return (
        "Find out what COMMIT waits for: deferred constraints and triggers that run now, a slow disk for the log,"
        " a synchronous replica. Where the last moments may be lost in a crash, SET LOCAL synchronous_commit = off"
        " (PostgreSQL) does not wait for the disk; WAL mode (SQLite) does not wait for readers."
    )


def _share(record: RequestRecord, seconds: float) -> float:
    return min(1.0, seconds / record.own_seconds) if record.own_seconds > 0 else 0.0


def _severity(share: float, seconds: float) -> Severity:
    critical = share >= _CRITICAL_SHARE and seconds >= _CRITICAL_SECONDS
    return Severity.CRITICAL if critical else Severity.WARNING
