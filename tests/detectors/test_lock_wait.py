"""`lock_wait`: what tells a wait for a lock from a slow statement, and from a slow database."""

import threading

from sqlalchemy import create_engine, text

from otel_fastperf.detectors.lock_wait import LockWaits
from otel_fastperf.detectors.slow_query import detect_slow_query
from otel_fastperf.findings import CallSite, Finding, Severity
from otel_fastperf.requests.locks import LockHolder, LockWait
from otel_fastperf.requests.record import StatementGroup, TransactionEnds
from otel_fastperf.settings import DatabaseSettings
from tests.detectors.records import LINE, changed, ended, repeated
from tests.postgresql import postgresql_url, with_driver
from tests.serving import wait_until

__all__ = ["postgresql_url"]

SETTINGS = DatabaseSettings()
UPDATE = "UPDATE stock SET pieces = pieces - ? WHERE stock.sku = ?"
FOR_UPDATE = "SELECT * FROM stock WHERE stock.sku = ? FOR UPDATE"
PAYS = CallSite("/srv/shop/buy.py", 12, "buy")
HOLDER = LockHolder("/buy", "SELECT stock", 0.15, PAYS)


def executed(text: str = UPDATE, seconds: float = 0.4, *, wait: LockWait | None = None) -> StatementGroup:
    """One execution, which may have been a wait."""
    return changed(
        repeated(text, 1, seconds=seconds),
        lock_waits=[] if wait is None else [wait],
        slow_count=int(seconds >= SETTINGS.slow_query),
        slowest=seconds,
    )


def waited(
    text: str = UPDATE,
    seconds: float = 0.4,
    *,
    holder: LockHolder | None = HOLDER,
    one_row: bool = False,
    refused: bool = False,
) -> StatementGroup:
    wait = LockWait(seconds, LINE, one_row=one_row, refused=refused)
    wait.holder = holder
    return executed(text, seconds, wait=wait)


def found(*groups: StatementGroup, times: int = 4, pause: float = 1.0, quick: bool = True) -> list[Finding]:
    """The findings of the last of several equal requests, after one in which nothing was locked if `quick`."""
    detector = LockWaits(SETTINGS)
    if quick:
        list(detector(ended(executed(UPDATE, 0.002), executed(FOR_UPDATE, 0.002))))
    last: list[Finding] = []
    for number in range(times):
        record = ended(*groups)
        record.started += number * pause
        record.ended += number * pause
        last = list(detector(record))
    return last


def test_a_statement_that_is_quick_otherwise_waits_for_the_transaction_that_ended() -> None:
    (finding,) = found(waited())
    assert (finding.kind, finding.call_site, finding.severity) == ("lock_wait", LINE, Severity.WARNING)
    assert finding.message == (
        "'UPDATE stock' waited 0.400 s for locked rows, until a transaction of /buy ended: it kept them for 0.150 s"
        " after 'SELECT stock' at shop/buy.py:12 in buy."
    )
    assert finding.remedy.startswith("Shorten the transaction in /buy: lock the row last")
    assert finding.evidence["holder"] == "/buy"


def test_a_statement_that_is_always_slow_does_not_wait() -> None:
    assert found(waited(), quick=False) == []


def test_one_row_by_a_unique_key_is_quick_by_nature() -> None:
    assert len(found(waited(one_row=True), quick=False)) == 1


def test_a_database_that_is_slow_at_everything_is_no_lock() -> None:
    assert found(waited(), repeated("SELECT * FROM users WHERE users.id = ?", 1, seconds=0.3)) == []
    group = waited(FOR_UPDATE, 0.6)
    record = ended(group)
    record.transaction_ends = TransactionEnds()
    record.transaction_ends.add("COMMIT", 0.4, None, counts=True)
    assert list(LockWaits(SETTINGS)(record)) == []
    assert not group.waited_for_lock


def test_a_few_waits_are_no_finding() -> None:
    assert found(waited(), times=3) == []


def test_waits_of_requests_that_came_all_at_once_are_no_finding() -> None:
    assert found(waited(), times=10, pause=0.05) == []


def test_a_wait_that_outlasts_many_transactions_is_a_finding_by_itself() -> None:
    """SQLite has no queue: one request waited 3.75 s, while forty that had come later went first."""
    (finding,) = found(waited(seconds=3.75), times=1)
    assert finding.seconds == 3.75
    assert found(waited(seconds=0.9), times=1) == []
    # it waits for one transaction that takes long
    assert found(waited(seconds=3.75, holder=HOLDER._replace(seconds=3.7)), times=1) == []


def test_without_a_known_transaction_it_is_probable_at_most() -> None:
    (finding,) = found(waited(FOR_UPDATE, holder=None))
    assert finding.message == ("'SELECT stock' probably waited 0.400 s for locked rows; what kept them is not known.")
    assert finding.remedy.startswith("Shorten the transaction that keeps the lock")
    assert found(waited(UPDATE, holder=None, one_row=True)) == []


def test_without_a_known_transaction_the_remedy_says_how_to_ask_for_it() -> None:
    (unknown,) = found(changed(waited(FOR_UPDATE, holder=None), system="postgresql"))
    assert "ask the database during the wait: SELECT blocking.pid" in unknown.remedy
    (known,) = found(changed(waited(FOR_UPDATE), system="postgresql"))
    assert "ask the database" not in known.remedy


def test_what_the_remedy_says_to_ask_names_the_transaction_that_keeps_the_row(postgresql_url: str) -> None:
    (finding,) = found(changed(waited(FOR_UPDATE, holder=None), system="postgresql"))
    question = finding.remedy.partition("during the wait: ")[2]
    engine = create_engine(with_driver(postgresql_url, "psycopg"))
    with engine.connect() as keeps, engine.connect() as waits, engine.connect() as asks:
        keeps.execute(text("SELECT pg_advisory_xact_lock(4711)"))
        waiting = threading.Thread(target=lambda: waits.execute(text("SELECT pg_advisory_xact_lock(4711)")))
        waiting.start()
        keeper = keeps.connection.dbapi_connection
        assert keeper is not None
        pid = keeper.info.backend_pid
        wait_until(lambda: [row[0] for row in asks.execute(text(question))] == [pid], what="the holder is told")
        keeps.rollback()
        waiting.join()
    engine.dispose()


def test_a_lock_that_the_database_refused_is_reported_at_once() -> None:
    (finding,) = found(waited(holder=None, refused=True), times=1, quick=False)
    assert finding.severity is Severity.CRITICAL
    assert "waited 0.400 s for locked rows, and the database gave up" in finding.message


def test_a_short_part_of_the_request_is_no_finding() -> None:
    assert found(waited(seconds=0.15)) == []


def test_what_a_lock_explains_is_no_slow_query() -> None:
    group = waited(FOR_UPDATE, 0.6)
    record = ended(group)
    assert len(list(detect_slow_query(record, SETTINGS))) == 1
    list(LockWaits(SETTINGS)(record))
    assert list(detect_slow_query(record, SETTINGS)) == []


def test_a_statement_that_has_waited_for_a_lock_is_no_slow_query_when_the_cause_is_not_seen() -> None:
    detector = LockWaits(SETTINGS)
    list(detector(ended(waited(FOR_UPDATE, 0.6))))
    record = ended(waited(FOR_UPDATE, 0.6, holder=None))
    assert list(detector(record)) == []
    assert list(detect_slow_query(record, SETTINGS)) == []
