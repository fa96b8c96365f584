"""A statement while it runs, and what is known of it when it has ended."""

import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.semconv.attributes.db_attributes import DB_NAMESPACE, DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import Span
from sqlalchemy import Dialect, Engine
from sqlalchemy.engine import URL, ExceptionContext, ExecutionContext

from otel_fastperf.instrumentation.slow_statement import SlowStatement
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.sql.describe import QueryText

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from otel_fastperf.findings import CallSite

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/db/#db-system-name
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
#: dialects whose synchronous drivers read all rows at once
_ROWS_KNOWN: Final = frozenset({"postgresql", "cockroachdb", "mysql", "mariadb"})
#: attributes in which drivers, and SQLAlchemy's adapters of async drivers, keep the database's code; psycopg2: `pgcode`
_CODES: Final = ("sqlstate", "pgcode", "sqlite_errorname")
#: systems whose drivers raise `(1062, "Duplicate entry …")`
_NUMBERED: Final = ("mysql", "mariadb")
#: attribute of the dialect that carries its `EngineFacts`
_FACTS: Final = "_fastperf_facts"


class StatementObserver(Protocol):
    """The one telemetry that observes a statement."""

    def emit_late(self, done: "ObservedStatement") -> None:
        """Emit the span and the metric of a statement that has waited for it."""

    def failed(self, failure: ExceptionContext, execution: ExecutionContext) -> None:
        """Finish a statement that failed or was cancelled."""


class ObservedStatement:
    """A statement, from just before it is executed until its span has been emitted. To call it is to emit it.

    While it runs, its execution context carries it, which marks the statement as observed.

    Attributes:
        context: The context that it runs in, with the parent of its span.
        many: True for an `executemany` and for a batch of insertmanyvalues.
        batch_size: Number of parameter sets of an `executemany`; 0 for a single execution.
        started_ns: When it started, by the wall clock: for the span.
        started: The same by `time.perf_counter()`, which is never set back: for durations. `ended` too.
        failure: What SQLAlchemy knows of a statement that failed or was cancelled.
        own_seconds: `seconds` without the time in which the garbage collector stopped the process, and for a slow one
            without that in which the event loop was blocked or the machine did not run the process.
        slow: Whether it took at least `slow_query` seconds of its own.
        site: The line that ran it, if its span should name it.
        execution, engine, query, ended, seconds, own_seconds: Set when it has ended. `execution` is deleted before the
            statement has to wait.
    """

    __slots__ = (
        "batch_size",
        "context",
        "ended",
        "engine",
        "execution",
        "failure",
        "many",
        "observer",
        "own_seconds",
        "query",
        "record",
        "seconds",
        "site",
        "slow",
        "started",
        "started_ns",
        "text",
    )

    execution: ExecutionContext
    engine: "EngineFacts"
    query: QueryText
    ended: float
    seconds: float
    own_seconds: float

    def __init__(
        self,
        observer: StatementObserver,
        record: RequestRecord | None,
        context: Context,
        text: str,
        batch_size: int,
        many: bool,  # noqa: FBT001 - called for each statement
    ) -> None:
        self.observer: StatementObserver = observer
        self.record: RequestRecord | None = record
        self.context: Context = context
        self.text: str = text
        self.many: bool = many
        self.batch_size: int = batch_size
        self.failure: ExceptionContext | None = None
        self.slow: bool = False
        self.site: CallSite | None = None
        self.started_ns: int = time.time_ns()
        self.started: float = time.perf_counter()

    def __call__(self) -> None:
        """Emit the span and the metric of a statement that has ended."""
        self.observer.emit_late(self)

    def slow_statement(self, text: str, parameters: Any, span: Span | None) -> SlowStatement:
        """The statement as it is passed to `on_slow`."""
        return SlowStatement(
            engine=self.execution.engine,
            text=text,
            parameters=parameters,
            dialect=self.engine.dialect,
            fingerprint=self.query.fingerprint,
            summary=self.query.summary,
            seconds=self.seconds,
            record=self.record,
            span=span,
        )


class EngineFacts:
    """Values shared by all statements of an engine."""

    __slots__ = ("attributes", "dialect", "is_async", "namespace", "reads_rows_late", "system")

    def __init__(self, dialect: Dialect, url: URL) -> None:
        self.dialect: str = dialect.name
        self.is_async: bool = dialect.is_async
        #: the driver does not know the number of rows when a statement has ended
        self.reads_rows_late: bool = not dialect.is_async and dialect.name not in _ROWS_KNOWN
        is_mariadb = getattr(dialect, "is_mariadb", False)
        self.system: str = "mariadb" if is_mariadb else _SYSTEMS.get(dialect.name, dialect.name)
        self.namespace: str = url.database or (":memory:" if dialect.name == "sqlite" else "")
        self.attributes: dict[str, AttributeValue] = {DB_SYSTEM_NAME: self.system}
        # libpq also accepts the host, or the directory of the Unix socket, in the query
        address = url.host or url.query.get("host")
        if isinstance(address, tuple):  # several to try; which one answered, the driver knows alone
            address = ",".join(address)
        optional = ((DB_NAMESPACE, self.namespace), (SERVER_ADDRESS, address), (SERVER_PORT, url.port))
        self.attributes |= {name: value for name, value in optional if value}


def facts_of(execution: ExecutionContext) -> EngineFacts:
    """The facts of the engine that runs this, kept on its dialect: a look-up by weak keys takes much longer."""
    facts: EngineFacts | None = execution.dialect.__dict__.get(_FACTS)
    return facts_of_engine(execution.engine) if facts is None else facts


def facts_of_engine(engine: Engine) -> EngineFacts:
    """The facts of the engine."""
    dialect = engine.dialect
    facts: EngineFacts | None = dialect.__dict__.get(_FACTS)
    if facts is None:
        facts = EngineFacts(dialect, engine.url)
        setattr(dialect, _FACTS, facts)
    return facts


def database_code(error: BaseException, system: str) -> str:
    """The database's own code of an error; `""` if it has none."""
    if system in _NUMBERED:
        number = error.args[0] if error.args else None
        return str(number) if isinstance(number, int) else ""
    for name in _CODES:
        code = getattr(error, name, None)
        if isinstance(code, str):
            return code
    return ""
