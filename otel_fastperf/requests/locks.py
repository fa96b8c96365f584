"""Waits for locks on rows, and the transactions that ended while statements waited.

A statement that waits for a row goes on as soon as the transaction that has locked it ends. So the transaction that
ended just before the statement did, and that had locked rows of the same table before, is the one that kept it waiting.
"""

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from otel_fastperf.sql.locking import locks_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_fastperf.findings import CallSite
    from otel_fastperf.requests.record import RequestRecord, StatementGroup

_T = TypeVar("_T")

#: maximum numbers of transactions that are remembered, of waits for which one is sought, and of waits that are kept for
#: a statement of a request
_MOST_ENDED: Final = 128
_MOST_SOUGHT: Final = 32
MOST_WAITS: Final = 16
#: a transaction is what keeps the lock, and not the database, if it is idle or busy otherwise for at least that many
#: seconds, and that share of the time, between its lock and its COMMIT
_LEAST_KEPT: Final = 0.01
_LEAST_KEPT_SHARE: Final = 0.5
#: seconds between the end of a transaction and that of a statement that waited for it. SQLite asks again after pauses
#: of up to 0.1 s
_SOON: Final = 0.03
_SOON_ON_SQLITE: Final = 0.15
_SQLITE: Final = "sqlite"


class LockHolder(NamedTuple):
    """The transaction that kept a statement waiting.

    Attributes:
        route: Method and template of its request; "" if they are unknown.
        summary: The statement with which it locked the rows.
        seconds: From then to its COMMIT or ROLLBACK.
        site: The line of that statement, if it was looked up.
    """

    route: str
    summary: str
    seconds: float
    site: "CallSite | None"


class LockWait:
    """One execution of a statement that may have waited for a lock."""

    __slots__ = ("holder", "one_row", "refused", "seconds", "site")

    def __init__(self, seconds: float, site: "CallSite | None", *, one_row: bool, refused: bool) -> None:
        #: its duration, without delays of the process
        self.seconds: float = seconds
        #: the line that ran it
        self.site: CallSite | None = site
        #: it finds one row by a unique key
        self.one_row: bool = one_row
        #: the database gave up waiting, or broke a deadlock
        self.refused: bool = refused
        #: the transaction that it waited for; None if none of this process is known
        self.holder: LockHolder | None = None


class _EndedTransaction(NamedTuple):
    """The end of a transaction, which took from `start` to `end`. Its locks were released in between.

    It keeps nothing of its request but the route and the statements. `request` is when that arrived, which tells it
    from others.
    """

    start: float
    end: float
    request: float
    route: str
    statements: "Mapping[str, StatementGroup]"


class _Sought(NamedTuple):
    """A wait whose holder is not known yet: the answer to the holder's COMMIT may arrive after that to the waiter."""

    wait: LockWait
    request: float
    group: "StatementGroup"
    started: float
    ended: float


class EndedTransactions:
    """The latest transactions that ended in requests. Safe to use from any thread: an append takes no lock."""

    __slots__ = ("_ended", "_sought")

    def __init__(self) -> None:
        self._ended: deque[_EndedTransaction] = deque(maxlen=_MOST_ENDED)
        self._sought: deque[_Sought] = deque(maxlen=_MOST_SOUGHT)

    def add(self, start: float, end: float, record: "RequestRecord") -> None:
        """A transaction of the request ended between these times, by `time.perf_counter()`."""
        if start - record.started < _LEAST_KEPT or not record.statements:
            return
        ended = _EndedTransaction(start, end, record.started, str(record.route_key), record.statements)
        self._ended.append(ended)
        if self._sought:
            for sought in _copied(self._sought):
                if sought.wait.holder is None:
                    sought.wait.holder = _holder(ended, sought)

    def seek(
        self, wait: LockWait, waiter: "RequestRecord", group: "StatementGroup", started: float, ended: float
    ) -> None:
        """Find out for which transaction of another request a statement of `waiter` waited between these times."""
        sought = _Sought(wait, waiter.started, group, started, ended)
        self._sought.append(sought)
        for each in sorted(_copied(self._ended), key=lambda each: each.end, reverse=True):
            holder = _holder(each, sought)
            if holder is not None:
                wait.holder = holder
                return


def _copied(queue: deque[_T]) -> tuple[_T, ...]:
    for _ in range(3):
        # iterating fails if another thread appends meanwhile
        with suppress(RuntimeError):
            return tuple(queue)
    return ()


def _holder(ended: _EndedTransaction, sought: _Sought) -> LockHolder | None:
    """The transaction, if it is the one that kept the statement waiting."""
    soon = _SOON_ON_SQLITE if sought.group.system == _SQLITE else _SOON
    if ended.request == sought.request:
        return None
    if not (ended.start <= sought.ended <= ended.end + soon and ended.end > sought.started):
        return None
    locked = _locking(ended, sought)
    if locked is None:
        return None
    kept = ended.start - locked.last
    if kept < max(_LEAST_KEPT, _LEAST_KEPT_SHARE * (ended.end - locked.last)):
        return None
    summary = locked.query.summary or locked.query.operation
    return LockHolder(ended.route, summary, kept, locked.lock_site)


def _locking(ended: _EndedTransaction, sought: _Sought) -> "StatementGroup | None":
    """The statement of the transaction that locked what the other one waited for, or may have."""
    wanted = sought.group
    for group in tuple(ended.statements.values()):
        if group.system != wanted.system or group.namespace != wanted.namespace or not locks_rows(group.query):
            continue
        # SQLite locks the whole database
        if wanted.system == _SQLITE or group.query.collection == wanted.query.collection:
            return group
    return None
