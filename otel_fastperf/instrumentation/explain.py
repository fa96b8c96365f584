"""EXPLAIN of slow queries: the database's plan for a statement, on a span and in the statement's finding.

    on_slow(statement)     on the app's thread or event loop: checks the cooldown, and puts the statement on a queue
    one daemon thread      asks the database on a separate connection, and attaches the plan to findings

The thread is started on first use, once per process. It sends `EXPLAIN`, never ANALYZE, and only for single SELECTs
that neither write nor lock (`read_only`), in a read-only transaction with a time limit that the database enforces. A
statement (by fingerprint) is explained once per cooldown. Nothing is explained while the engine's pool has no free
connection: the database might refuse the next connection of the app because of ours.

**The connection** comes from `engine.pool.recreate()`, which `Engine.dispose()` also uses: a pool of the same kind with
the same creator and listeners. So the connection is made like the app's own, with its `connect_args`, `creator` or
`do_connect`, and set up by its `connect` listeners (search_path, roles, PRAGMAs, functions), but is not part of the
app's pool or its metrics. It is used below SQLAlchemy's `Connection`, so no events fire for it, and neither we nor
contrib make spans, durations or findings. It is closed after each plan. It lacks what the app sets within a transaction
(`SET LOCAL`, temporary tables); if a plan needs that, the database answers with an error, which is counted.

Connections of async drivers belong to an event loop, so the thread runs one for them.

**The plan** is shown on a span `EXPLAIN <summary>` with the event `fastperf.explain`. It is a child of the statement's
span, if that is sampled; it cannot be an event there, because the statement's span has ended by then. The `slow_query`
findings of the statement get the plan as evidence: those in the log when the plan arrives, later ones when they are
reported.
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
from opentelemetry.trace import SpanKind, set_span_in_context
from opentelemetry.util.types import AttributeValue
from sqlalchemy import Dialect, Engine, Pool, QueuePool
from sqlalchemy.pool import PoolProxiedConnection, SingletonThreadPool, StaticPool

from otel_fastperf.findings import Evidence, Finding, Kind
from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.internals.redaction import describe_error, error_type
from otel_fastperf.internals.spans import may_be_exported
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import ExplainSettings
from otel_fastperf.signals import Signals
from otel_fastperf.sql.plans.node import Node, PlanDialect, TableFacts
from otel_fastperf.sql.plans.plan import PLAN_DIALECTS, Plan, plan_of, remedy_by
from otel_fastperf.sql.plans.statement import PlannedStatement, statement_of
from otel_fastperf.sql.read_only import only_reads

#: maximum length of the queue
_MOST_WAITING: Final = 16
#: maximum numbers of fingerprints whose cooldown is remembered, and of plans that are kept
_MOST_FINGERPRINTS: Final = 1024
_MOST_PLANS: Final = 256
#: seconds to wait at shutdown for a plan that is being made
_LONGEST_END: Final = 1.0
#: seconds that an async driver may take to connect, in addition to the timeout
_CONNECT: Final = 5.0
#: the evidence of a finding that identifies its statement
_FINGERPRINT: Final = "db.query.fingerprint"
#: pools in which each connection to an in-memory SQLite has a database of its own
_LONE_POOLS: Final = (SingletonThreadPool, StaticPool)


@contextmanager
def explain_slow_queries(settings: ExplainSettings, signals: Signals) -> Iterator[Callable[[SlowStatement], None]]:
    """Yield the function that takes slow statements until the context manager exits. It never blocks or raises."""
    explainer = _Explainer(settings, signals)
    stop_listening = signals.findings.add_finding_listener(explainer.on_finding)
    try:
        yield explainer.on_slow
    finally:
        stop_listening()
        explainer.close()


class _ExplainError(Exception):
    """Why there is no plan, without values of the statement."""


class _Explainer:
    """Takes statements and findings on the app's threads."""

    def __init__(self, settings: ExplainSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._cooldown = _Cooldown(settings.cooldown)
        self._plans = _Plans(signals)
        #: by process id, because a fork copies neither the thread nor a usable state of its locks
        self._threads: dict[int, _ExplainThread] = {}
        self._closed = False

    def on_slow(self, slow: SlowStatement) -> None:
        """Queue the statement, unless it is cooling down."""
        try:
            if self._closed or slow.dialect not in PLAN_DIALECTS or not self._cooldown.begin(slow.fingerprint):
                return
            if not self._thread().offer(slow):
                self._cooldown.cancel(slow.fingerprint)
                self._signals.metrics.explains.child("queue_full").inc()
        except Exception as error:  # noqa: BLE001 - telemetry must not make a statement fail
            self._signals.guard.failed("explain", error)

    def on_finding(self, finding: Finding, _record: RequestRecord | None) -> None:
        """Attach the plan of its statement to a finding that is reported after the plan was made."""
        if finding.kind == Kind.SLOW_QUERY:
            self._plans.attach(str(finding.evidence.get(_FINGERPRINT)))

    def close(self) -> None:
        """Stop the thread of this process."""
        self._closed = True
        thread = self._threads.pop(os.getpid(), None)
        if thread is not None:
            thread.stop()

    def _thread(self) -> "_ExplainThread":
        process = os.getpid()
        thread = self._threads.get(process)
        if thread is None:
            # without a lock, because a fork could leave it locked
            made = _ExplainThread(self._settings, self._signals, self._cooldown, self._plans)
            thread = self._threads.setdefault(process, made)
            if thread is made:
                thread.start()
        return thread


class _Cooldown:
    """The time at which each statement may be explained again. Two threads may both pass at the same moment."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, float] = OrderedDict()

    def begin(self, fingerprint: str) -> bool:
        """Start the cooldown of a statement; False if it is still cooling down."""
        now = time.monotonic()
        if now < self._until.get(fingerprint, 0.0):
            return False
        self._until[fingerprint] = now + self._seconds
        if len(self._until) > _MOST_FINGERPRINTS:
            with suppress(KeyError):
                self._until.popitem(last=False)
        return True

    def cancel(self, fingerprint: str) -> None:
        """Let the next execution of a statement be explained, because this one could not be."""
        self._until.pop(fingerprint, None)


class _Plans:
    """The plans of recent statements. A plan and its finding may arrive in either order, on different threads."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._plans: OrderedDict[str, tuple[Evidence, str]] = OrderedDict()

    def add(self, fingerprint: str, plan: Plan) -> None:
        """Keep the plan, and attach it to the findings of its statement."""
        self._plans.pop(fingerprint, None)
        evidence = {"plan": plan.text, "plan_hash": plan.hash, "plan_remark": plan.remark}
        self._plans[fingerprint] = evidence, remedy_by(plan)
        if len(self._plans) > _MOST_PLANS:
            self._plans.popitem(last=False)
        self.attach(fingerprint)

    def attach(self, fingerprint: str) -> None:
        """Add the plan of the statement, if there is one, to its findings that have no plan or an older one."""
        known = self._plans.get(fingerprint)
        if known is None:
            return
        evidence, remedy = known

        def lacks_it(finding: Finding) -> bool:
            return (
                finding.kind == Kind.SLOW_QUERY
                and finding.evidence.get(_FINGERPRINT) == fingerprint
                and finding.evidence.get("plan") != evidence["plan"]
            )

        def has_another_remedy(finding: Finding) -> bool:
            return (
                finding.kind == Kind.SLOW_QUERY
                and finding.evidence.get(_FINGERPRINT) == fingerprint
                # rows that an OFFSET skips are read whatever the plan is
                and "rows_skipped" not in finding.evidence
                and finding.remedy != remedy
            )

        self._signals.findings.log.annotate(lacks_it, evidence)
        if remedy:
            self._signals.findings.log.annotate(has_another_remedy, {}, remedy)


class _ExplainThread:
    """The thread of one process, and its queue."""

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
        """Queue the statement; False if the queue is full."""
        try:
            self._waiting.put_nowait(slow)
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        self._stopping = True
        # wakes the thread; if the queue is full, it is awake already
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(_LONGEST_END)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._next()
            except Exception as error:  # noqa: BLE001 - one failure must not end the thread
                self._signals.guard.failed("explain", error)

    def _next(self) -> None:
        slow = self._waiting.get()
        if slow is not None and not self._stopping:
            self._signals.metrics.explains.child(self._explain(slow)).inc()

    def _explain(self, slow: SlowStatement) -> str:
        """Explain a statement; return the outcome, which is a label of the metric."""
        if not only_reads(slow.text, slow.dialect):
            return "not_a_read"
        pool = slow.engine.pool
        if slow.dialect == "sqlite" and isinstance(pool, _LONE_POOLS):
            return "unsupported"
        if _is_saturated(pool):
            self._cooldown.cancel(slow.fingerprint)
            return "saturated"
        began = time.time_ns()
        try:
            plan = self._ask(slow)
        except Exception as error:  # noqa: BLE001 - any driver's error; its message may contain values
            shown = describe_error(error, self._signals.exceptions)
            self._signals.guard.failed("explain", _ExplainError(f"{error_type(error)}: {shown.message}"))
            return "failed"
        self._plans.add(slow.fingerprint, plan)
        self._trace(slow, plan, began)
        return "explained"

    def _ask(self, slow: SlowStatement) -> Plan:
        dialect = slow.engine.dialect
        database = PLAN_DIALECTS[_system(slow)]
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
        if parent is None or not may_be_exported(parent):
            return
        span = self._signals.tracer.start_span(
            f"EXPLAIN {slow.summary}".rstrip(),
            # not CLIENT, because it is not work of the app
            kind=SpanKind.INTERNAL,
            context=set_span_in_context(parent, Context()),
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
    """The dialect's name, which is `mysql` for MariaDB too, except that MariaDB is `mariadb`."""
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
    """True if the app would have to wait for its next connection. `max_overflow` has no public accessor."""
    if not isinstance(pool, QueuePool):
        return False
    overflow: int = getattr(pool, "_max_overflow", -1)
    return overflow >= 0 and pool.checkedout() >= pool.size() + overflow


# --- the connection ---------------------------------------------------------------------------------------------------


class _Question:
    """Asks the database for the plan of one statement. Blocks; for an async engine it must run in a greenlet."""

    def __init__(
        self, database: PlanDialect, dialect: Dialect, slow: SlowStatement, statement: PlannedStatement, timeout: float
    ) -> None:
        self._database = database
        self._dialect = dialect
        self._engine: Engine = slow.engine
        self._text = slow.text
        self._parameters = slow.parameters
        self._statement = statement
        self._timeout = timeout

    def ask(self) -> tuple[Node, TableFacts]:
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

    def _converse(self, connection: PoolProxiedConnection) -> tuple[Node, TableFacts]:
        self._begin(connection)
        rows = _fetch(connection, self._database.explain + self._text, self._parameters)
        root = self._database.read(rows, self._statement)
        if root is None:
            message = "the database's answer is not a plan of a known format"
            raise _ExplainError(message)
        facts = self._database.facts(self._ask_facts(connection, root))
        self._dialect.do_rollback(connection)
        return root, facts

    def _begin(self, connection: PoolProxiedConnection) -> None:
        """Make the session read-only and limit its time, even if the app's listeners have left a transaction open."""
        self._dialect.do_commit(connection)
        if self._database.opens_transaction:
            raw = connection.dbapi_connection
            if raw is not None:
                # in AUTOCOMMIT mode there would be no transaction, and `SET LOCAL` would have no effect
                self._dialect.set_isolation_level(raw, "READ COMMITTED")
        if self._dialect.driver == "asyncpg":
            _use_unnamed_statements(connection.dbapi_connection)
        version: tuple[int, ...] = getattr(self._dialect, "server_version_info", None) or ()
        for statement in self._database.prepare(self._timeout, version):
            _execute(connection, statement)

    def _ask_facts(self, connection: PoolProxiedConnection, root: Node) -> list[Sequence[Any]]:
        """The rows of all questions that the database answers; without them, a plan is still useful."""
        rows: list[Sequence[Any]] = []
        for question in self._database.questions(root):
            with suppress(self._dialect.loaded_dbapi.Error):
                rows += _fetch(connection, question)
        return rows


def _use_unnamed_statements(connection: Any) -> None:
    """Make asyncpg prepare everything as the unnamed statement, which the next one replaces.

    asyncpg prepares all statements. Behind a pooler that shares connections, such as PgBouncer, a named statement would
    stay in the server's session after ours has ended. asyncpg has no public setting for a single connection.
    """
    if hasattr(connection, "_prepared_statement_name_func"):
        connection._prepared_statement_name_func = str  # noqa: SLF001


async def _on_a_loop(question: _Question, timeout: float) -> tuple[Node, TableFacts]:  # noqa: ASYNC109 - of the database
    from sqlalchemy.util import greenlet_spawn

    async with asyncio.timeout(2 * timeout + _CONNECT):
        answer: tuple[Node, TableFacts] = await greenlet_spawn(question.ask)
        return answer


def _execute(connection: PoolProxiedConnection, statement: str) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement)


def _fetch(connection: PoolProxiedConnection, statement: str, *parameters: Any) -> list[Sequence[Any]]:
    with closing(connection.cursor()) as cursor:
        # without parameters, pass none at all: drivers treat `%` as an escape even if they are empty
        cursor.execute(statement, *parameters)
        return list(cursor.fetchall())
