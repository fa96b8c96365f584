"""A statement that waits for a lock that another transaction keeps."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.requests.locks import LockHolder, LockWait
from otel_fastperf.requests.record import RequestRecord, StatementGroup
from otel_fastperf.settings import DatabaseSettings
from otel_fastperf.sql.locking import is_select_for_update, locks_rows

#: an execution is quick if it takes at most this share of a wait, and at most that many seconds: then the rest of the
#: wait is not the statement's own
_QUICK_SHARE: Final = 0.3
_QUICK_SECONDS: Final = 0.05
#: minimum share of the request
_LEAST_SHARE: Final = 0.2
#: what else the request asked of the database may take up to this share of the wait; more means that all is slow
_OTHERS_SHARE: Final = 0.5
#: waits of a statement within `_RECENT` seconds that are a finding, and the least seconds from the first to the last:
#: requests that come all at once after a start wait for each other once. One wait of that many seconds for that many
#: transactions counts like them: SQLite has no queue, so while one request waits for seconds, others go first
_REPEATS: Final = 4
_LEAST_SPAN: Final = 1.0
_RECENT: Final = 120.0
_MOST_RECENT: Final = 64
_MOST_STATEMENTS: Final = 512
_SQLITE: Final = "sqlite"
_POSTGRESQL: Final = "postgresql"
#: shows which transaction, of whatever process, keeps a lock while a statement waits for it
_WHICH_BLOCKS: Final = (
    "SELECT blocking.pid, blocking.application_name, blocking.state, now() - blocking.xact_start, blocking.query"
    " FROM pg_stat_activity AS waiting CROSS JOIN unnest(pg_blocking_pids(waiting.pid)) AS by(pid)"
    " JOIN pg_stat_activity AS blocking ON blocking.pid = by.pid"
)


class LockWaits:
    """A detector that remembers how fast each statement is when nothing is locked, and when it waited."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._quickest: OrderedDict[str, float] = OrderedDict()
        self._recent: OrderedDict[str, deque[float]] = OrderedDict()

    def __call__(self, record: RequestRecord) -> Iterator[Finding]:
        """Yield the findings of one finished request. Called on the event loop's thread or the backlog's."""
        for group in tuple(record.statements.values()):
            if not locks_rows(group.query):
                continue
            waits = [wait for wait in group.lock_waits if self._is_wait(wait, group, record)]
            self._learn(group)
            if waits and self._counts(group, waits, record):
                yield _finding(group, waits, record)
            # no index helps a statement that waits for locks, whether each of its waits is certain or not
            group.waited_for_lock = self._needs_no_index(group, record)

    def _learn(self, group: StatementGroup) -> None:
        waited = sum(wait.seconds for wait in group.lock_waits)
        free = group.count - len(group.lock_waits)
        # an average: single executions are not kept
        if free > 0:
            fingerprint = group.query.fingerprint
            seconds = max(0.0, group.seconds - waited) / free
            self._quickest[fingerprint] = min(seconds, self._quickest.get(fingerprint, seconds))
            if len(self._quickest) > _MOST_STATEMENTS:
                self._quickest.popitem(last=False)

    def _is_wait(self, wait: LockWait, group: StatementGroup, record: RequestRecord) -> bool:
        if wait.refused:
            return True
        if wait.seconds < _LEAST_SHARE * record.own_seconds or _others(record) > _OTHERS_SHARE * wait.seconds:
            return False
        quickest = self._quickest.get(group.query.fingerprint)
        is_quick = quickest is not None and quickest <= min(_QUICK_SECONDS, _QUICK_SHARE * wait.seconds)
        if wait.holder is not None:
            return is_quick or wait.one_row or is_select_for_update(group.query)
        # another process may keep the lock
        return is_select_for_update(group.query) and (is_quick or wait.one_row)

    def _needs_no_index(self, group: StatementGroup, record: RequestRecord) -> bool:
        if is_select_for_update(group.query) and any(wait.one_row for wait in group.lock_waits):
            return True
        recent = self._recent.get(group.query.fingerprint)
        return recent is not None and record.ended - recent[-1] <= _RECENT

    def _counts(self, group: StatementGroup, waits: list[LockWait], record: RequestRecord) -> bool:
        """Whether the waits are a finding: one that was refused, a long one, or several over some time."""
        recent = self._recent.setdefault(group.query.fingerprint, deque(maxlen=_MOST_RECENT))
        recent.extend([record.ended] * len(waits))
        while record.ended - recent[0] > _RECENT:
            recent.popleft()
        if len(self._recent) > _MOST_STATEMENTS:
            self._recent.popitem(last=False)
        repeated = len(recent) >= _REPEATS and recent[-1] - recent[0] >= _LEAST_SPAN
        return repeated or any(wait.refused or _outlasts_many(wait) for wait in waits)


def _outlasts_many(wait: LockWait) -> bool:
    return wait.holder is not None and wait.seconds >= max(_LEAST_SPAN, _REPEATS * wait.holder.seconds)


def _others(record: RequestRecord) -> float:
    """The seconds that the slowest other statement, or end of a transaction, of the request takes on average."""
    others = [group for group in tuple(record.statements.values()) if not group.lock_waits and group.count]
    slowest = max((group.seconds / group.count for group in others), default=0.0)
    ends = record.transaction_ends
    return max(slowest, 0.0 if ends is None else ends.slowest)


def _finding(group: StatementGroup, waits: list[LockWait], record: RequestRecord) -> Finding:
    summary = group.query.summary or group.query.operation
    seconds = sum(wait.seconds for wait in waits)
    longest = max(waits, key=lambda wait: wait.seconds)
    holder = next((wait.holder for wait in (longest, *waits) if wait.holder is not None), None)
    refused = any(wait.refused for wait in waits)
    evidence: dict[str, str | int | float] = {
        "seconds": seconds,
        "waits": len(waits),
        "db.query.fingerprint": group.query.fingerprint,
        "db.query.summary": summary,
        "db.system.name": group.system,
    }
    if holder is not None:
        evidence |= {"holder": holder.route, "holder.summary": holder.summary, "holder.seconds": holder.seconds}
        if holder.site is not None:
            evidence["holder.line"] = str(holder.site)
    return Finding(
        kind=Kind.LOCK_WAIT,
        severity=Severity.CRITICAL if refused else Severity.WARNING,
        subject=summary,
        message=_message(group, longest, holder, record),
        remedy=_remedy(group, holder),
        evidence=evidence,
        call_site=longest.site,
        seconds=seconds,
    )


def _message(group: StatementGroup, wait: LockWait, holder: LockHolder | None, record: RequestRecord) -> str:
    summary = group.query.summary or group.query.operation
    waited = "waited" if holder is not None or wait.refused else "probably waited"
    what = "the database's lock for writing" if group.system == _SQLITE else "locked rows"
    end = ", and the database gave up" if wait.refused else ""
    if holder is None:
        return f"{summary!r} {waited} {wait.seconds:.3f} s for {what}{end}; what kept them is not known."
    is_same = holder.route == str(record.route_key)
    same = "another request of the same route" if is_same else holder.route or "another request"
    where = f" at {holder.site}" if holder.site is not None else ""
    return (
        f"{summary!r} {waited} {wait.seconds:.3f} s for {what}{end}, until a transaction of {same} ended: it kept them"
        f" for {holder.seconds:.3f} s after {holder.summary!r}{where}."
    )


def _remedy(group: StatementGroup, holder: LockHolder | None) -> str:
    holds = f"in {holder.route}" if holder is not None and holder.route else "that keeps the lock"
    if group.system == _SQLITE:
        return (
            f"Shorten the transaction {holds}: do not await other work between its first write and its COMMIT. SQLite"
            " has one writer at a time; WAL mode lets others read meanwhile, and PostgreSQL lets others write."
        )
    which = ""
    if holder is None and group.system == _POSTGRESQL:
        which = f" To see which it is, in another process perhaps, ask the database during the wait: {_WHICH_BLOCKS}"
    return (
        f"Shorten the transaction {holds}: lock the row last, and do not await other work, such as a call of another"
        " service, between the lock and COMMIT. A row that is read only to be changed needs no lock"
        f" before: one UPDATE can compute the new value (SET n = n - 1) and return it.{which}"
    )
