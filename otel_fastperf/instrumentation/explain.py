"""EXPLAIN of slow queries: what the database makes of a statement, on its span and in its finding.

    on_slow(statement)     on the app's thread or loop: one look-up, and the statement is put on a short queue
    one daemon thread      asks the database, on a connection of its own, and hands out the answer

The thread is made on first use, one for each process. It sends `EXPLAIN`, never ANALYZE, of single SELECTs that neither
write nor lock (`reads`), in a read-only transaction with a time limit that the database keeps. Of one statement
(fingerprint) it asks once in a cooldown, and nothing while the engine's pool has no connection to spare: the one more
may be the one that the server refuses to the app.

**The connection** comes from `engine.pool.recreate()`, which is what `Engine.dispose()` uses: a pool of the same kind,
with the same creator and the same listeners. So it is made as the app's own are, by its `connect_args`, `creator` or
`do_connect`, and set up by its `connect` listeners (search_path, roles, PRAGMAs, functions); nothing of it is in the
app's pool nor in that pool's figures. It is used below SQLAlchemy's `Connection`, whose events therefore see nothing of
it: no spans, no durations, no findings, be they ours or contrib's. It is closed after each plan. What the app sets in a
transaction (`SET LOCAL`, temporary tables) is not there; then the database answers with an error, which is counted.

Connections of async drivers belong to an event loop, so for these the thread runs one.

**Where the plan goes.** A span `EXPLAIN <summary>` with the event `fastperf.explain` lies under the statement's span,
if that is sampled: a span of its own, since by then the statement's has ended, and mostly the request's too. The
findings `slow_query` of the fingerprint get it as evidence; as they are reported when their requests end, which may be
later, the thread looks for new ones every half second.
"""

import asyncio
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.semconv.attributes.db_attributes import DB_QUERY_SUMMARY, DB_SYSTEM_NAME
from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context
from opentelemetry.util.types import AttributeValue
from sqlalchemy import Dialect, Engine, Pool, QueuePool
from sqlalchemy.pool import PoolProxiedConnection, SingletonThreadPool, StaticPool

from otel_fastperf.findings import Evidence, Kind
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.internals.redaction import describe_error, error_type
from otel_fastperf.settings import ExplainSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.plans.node import Database, Facts, Node
from otel_fastperf.sql.plans.plan import DATABASES, Plan, plan_of
from otel_fastperf.sql.plans.statement import Statement, statement_of
from otel_fastperf.sql.read_only import only_reads

#: statements that wait for their plan
_MOST_WAITING: Final = 16
#: fingerprints that are remembered, with the time of their last plan, and with the plan
_MOST_FINGERPRINTS: Final = 1024
_MOST_PLANS: Final = 256
#: seconds between two looks for findings that have no plan yet
_PAUSE: Final = 0.5
#: seconds that the end of the block waits for a plan that is under way
_LONGEST_END: Final = 1.0
#: seconds, besides the timeout, that connecting may take an async driver
_CONNECT: Final = 5.0
#: evidence of a finding that says which statement it is about
_FINGERPRINT: Final = "db.query.fingerprint"
#: of these, each connection to a SQLite database in memory has a database of its own
_LONE_POOLS: Final = (SingletonThreadPool, StaticPool)


@contextmanager
def explain_slow_queries(settings: ExplainSettings, signals: Signals) -> Iterator[Callable[[SlowStatement], None]]:
    """Give the call that takes slow statements in, until the end of the block. It returns at once and never raises."""
    explainer = _Explainer(settings, signals)
    try:
        yield explainer.on_slow
    finally:
        explainer.close()


class _ExplainError(Exception):
    """Why there is no plan, without values of the statement."""


class _Explainer:
    """Takes statements in, on the app's path."""

    def __init__(self, settings: ExplainSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._cooldown = _Cooldown(settings.cooldown)
        self._plans = _Plans(signals)
        #: by process id: a fork leaves the thread behind, and maybe a lock that it held
        self._workers: dict[int, _Worker] = {}
        self._closed = False

    def on_slow(self, slow: SlowStatement) -> None:
        """Have the statement explained, unless it was a short time ago."""
        try:
            if self._closed or slow.dialect not in DATABASES or not self._cooldown.begin(slow.fingerprint):
                return
            if not self._worker().offer(slow):
                self._cooldown.forget(slow.fingerprint)
                self._signals.metrics.explains.child("queue_full").inc()
        except Exception as error:  # noqa: BLE001 - telemetry fails no statement
            self._signals.guard.failed("explain", error)

    def close(self) -> None:
        """Stop the thread of this process."""
        self._closed = True
        worker = self._workers.pop(os.getpid(), None)
        if worker is not None:
            worker.stop()

    def _worker(self) -> "_Worker":
        process = os.getpid()
        worker = self._workers.get(process)
        if worker is None:
            # no lock: one that is held in a fork is held for ever
            made = _Worker(self._settings, self._signals, self._cooldown, self._plans)
            worker = self._workers.setdefault(process, made)
            if worker is made:
                worker.start()
        return worker


class _Cooldown:
    """When each statement may be explained again. Two threads that come at once may both be let through."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, float] = OrderedDict()

    def begin(self, fingerprint: str) -> bool:
        """True if the statement is not cooling down; then it begins to."""
        now = time.monotonic()
        if now < self._until.get(fingerprint, 0.0):
            return False
        self._until[fingerprint] = now + self._seconds
        if len(self._until) > _MOST_FINGERPRINTS:
            with suppress(KeyError):
                self._until.popitem(last=False)
        return True

    def forget(self, fingerprint: str) -> None:
        """The statement was not explained, so its next occurrence may be."""
        self._until.pop(fingerprint, None)


class _Plans:
    """The plans of the statements seen last, for findings that are reported after them."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._plans: OrderedDict[str, Evidence] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._plans)

    def add(self, fingerprint: str, plan: Plan) -> None:
        self._plans.pop(fingerprint, None)
        self._plans[fingerprint] = {"plan": plan.text, "plan_hash": plan.hash, "plan_remark": plan.remark}
        if len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)

    def hand_out(self) -> None:
        """Give each finding that has no plan, or an older one, the plan of its statement."""
        log = self._signals.findings.log
        wanting = {
            fingerprint
            for finding in log.findings()
            if finding.kind == Kind.SLOW_QUERY
            and (evidence := self._plans.get(fingerprint := str(finding.evidence.get(_FINGERPRINT)))) is not None
            and finding.evidence.get("plan") != evidence["plan"]
        }
        for fingerprint in wanting:
            log.annotate(
                lambda finding, wanted=fingerprint: (  # type: ignore[misc]
                    finding.kind == Kind.SLOW_QUERY and finding.evidence.get(_FINGERPRINT) == wanted
                ),
                self._plans[fingerprint],
            )


class _Worker:
    """The thread of one process, and the queue before it."""

    def __init__(self, settings: ExplainSettings, signals: Signals, cooldown: _Cooldown, plans: _Plans) -> None:
        self._settings = settings
        self._signals = signals
        self._cooldown = cooldown
        self._plans = plans
        self._waiting: queue.Queue[SlowStatement | None] = queue.Queue(_MOST_WAITING)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="otel_fastperf-explain", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, slow: SlowStatement) -> bool:
        """False if there is no room."""
        try:
            self._waiting.put_nowait(slow)
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        self._stopping = True
        # wakes the thread; where the queue is full, it is awake
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(_LONGEST_END)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._next()
            except Exception as error:  # noqa: BLE001 - one plan that fails must not end the thread
                self._signals.guard.failed("explain", error)

    def _next(self) -> None:
        slow = None
        with suppress(queue.Empty):
            slow = self._waiting.get(timeout=_PAUSE if self._plans else None)
        if self._stopping:
            return
        if slow is not None:
            self._signals.metrics.explains.child(self._explain(slow)).inc()
        self._plans.hand_out()

    def _explain(self, slow: SlowStatement) -> str:
        """Explain one statement; the outcome."""
        if not only_reads(slow.text, slow.dialect):
            return "not_a_read"
        pool = slow.engine.pool
        if slow.dialect == "sqlite" and isinstance(pool, _LONE_POOLS):
            return "unsupported"
        if _is_saturated(pool):
            self._cooldown.forget(slow.fingerprint)
            return "saturated"
        began = time.time_ns()
        try:
            plan = self._ask(slow)
        except Exception as error:  # noqa: BLE001 - of any driver; its message may have values
            shown = describe_error(error)
            self._signals.guard.failed("explain", _ExplainError(f"{error_type(error)}: {shown.message}"))
            return "failed"
        self._plans.add(slow.fingerprint, plan)
        self._trace(slow, plan, began)
        return "explained"

    def _ask(self, slow: SlowStatement) -> Plan:
        dialect = slow.engine.dialect
        database = DATABASES[_system(slow)]
        statement = statement_of(slow.text, slow.dialect)
        question = _Question(database, dialect, slow, statement, self._settings.timeout)
        with suppress_instrumentation():
            if dialect.is_async:
                root, facts = asyncio.run(_on_a_loop(question, self._settings.timeout))
            else:
                root, facts = question.ask()
        return plan_of(database, root, statement, facts, max_length=self._settings.max_length)

    def _trace(self, slow: SlowStatement, plan: Plan, began: int) -> None:
        parent = slow.span or (slow.record.span if slow.record is not None else None)
        context = None if parent is None else parent.get_span_context()
        if context is None or not context.trace_flags.sampled:
            return
        span = self._signals.tracer.start_span(
            f"EXPLAIN {slow.summary}".rstrip(),
            # not CLIENT: it is no work of the app's, and shall not be counted as such
            kind=SpanKind.INTERNAL,
            context=set_span_in_context(NonRecordingSpan(context), Context()),
            attributes={
                DB_SYSTEM_NAME: _system(slow),
                DB_QUERY_SUMMARY: slow.summary,
                "fastperf.plan.hash": plan.hash,
            },
            start_time=began,
        )
        span.add_event("fastperf.explain", _event_attributes(plan))
        span.end()


def _system(slow: SlowStatement) -> str:
    """The dialect, where MariaDB is told from MySQL."""
    return "mariadb" if getattr(slow.engine.dialect, "is_mariadb", False) else slow.dialect


def _event_attributes(plan: Plan) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "fastperf.plan.text": plan.text,
        "fastperf.plan.hash": plan.hash,
        "fastperf.plan.remark": plan.remark,
        "fastperf.plan.top": plan.top,
        "fastperf.plan.scans": [
            table if rows is None else f"{table} ({rows:,.0f} rows)" for table, rows in plan.scans if table
        ],
    }
    if plan.cost is not None:
        attributes["fastperf.plan.cost"] = plan.cost
    return attributes


def _is_saturated(pool: Pool) -> bool:
    """True if the app would have to wait for its next connection. `max_overflow` has no public name."""
    if not isinstance(pool, QueuePool):
        return False
    overflow: int = getattr(pool, "_max_overflow", -1)
    return overflow >= 0 and pool.checkedout() >= pool.size() + overflow


# --- the connection ---------------------------------------------------------------------------------------------------


class _Question:
    """One statement, and how its database is asked for the plan. Blocks; of an async engine it needs a greenlet."""

    def __init__(
        self, database: Database, dialect: Dialect, slow: SlowStatement, statement: Statement, timeout: float
    ) -> None:
        self._database = database
        self._dialect = dialect
        self._engine: Engine = slow.engine
        self._text = slow.text
        self._parameters = slow.parameters
        self._statement = statement
        self._timeout = timeout

    def ask(self) -> tuple[Node, Facts]:
        pool = self._engine.pool.recreate()
        try:
            connection = pool.connect()
            try:
                answer = self._converse(connection)
            except BaseException as error:
                connection.invalidate(error)
                raise
            connection.close()
        finally:
            pool.dispose()
        return answer

    def _converse(self, connection: PoolProxiedConnection) -> tuple[Node, Facts]:
        self._begin(connection)
        rows = _fetch(connection, self._database.explain + self._text, self._parameters)
        root = self._database.read(rows, self._statement)
        if root is None:
            message = "the database's answer is no plan that is known here"
            raise _ExplainError(message)
        facts = self._database.facts(self._ask_facts(connection, root))
        self._dialect.do_rollback(connection)
        return root, facts

    def _begin(self, connection: PoolProxiedConnection) -> None:
        """Make the session harmless, whatever the app's own listeners have left of a transaction."""
        self._dialect.do_commit(connection)
        if self._database.opens_transaction:
            raw = connection.dbapi_connection
            if raw is not None:
                # without this an engine in AUTOCOMMIT would have no transaction, and `SET LOCAL` no effect
                self._dialect.set_isolation_level(raw, "READ COMMITTED")
        if self._dialect.driver == "asyncpg":
            _leave_no_names(connection.dbapi_connection)
        version: tuple[int, ...] = getattr(self._dialect, "server_version_info", None) or ()
        for statement in self._database.prepare(self._timeout, version):
            _execute(connection, statement)

    def _ask_facts(self, connection: PoolProxiedConnection, root: Node) -> list[Sequence[Any]]:
        """What can be had: a plan without them is one all the same."""
        rows: list[Sequence[Any]] = []
        for question in self._database.questions(root):
            with suppress(self._dialect.loaded_dbapi.Error):
                rows += _fetch(connection, question)
        return rows


def _leave_no_names(connection: Any) -> None:
    """Have asyncpg prepare all under the name that the next takes over.

    It prepares whatever it executes; behind a pooler that shares connections, such as PgBouncer, a statement with a
    name of its own would stay in the server's session when ours has ended. No public way leads there by connection.
    """
    if hasattr(connection, "_prepared_statement_name_func"):
        connection._prepared_statement_name_func = str  # noqa: SLF001


async def _on_a_loop(question: _Question, timeout: float) -> tuple[Node, Facts]:  # noqa: ASYNC109 - of the database
    from sqlalchemy.util import greenlet_spawn

    async with asyncio.timeout(2 * timeout + _CONNECT):
        answer: tuple[Node, Facts] = await greenlet_spawn(question.ask)
        return answer


def _execute(connection: PoolProxiedConnection, statement: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)


def _fetch(connection: PoolProxiedConnection, statement: str, *parameters: Any) -> list[Sequence[Any]]:
    with closing(connection.cursor()) as cursor:
        # without parameters, drivers leave the text as it is; with none of them, `%` is still an escape
        cursor.execute(statement, *parameters)
        return list(cursor.fetchall())
