"""The source of a statement's CLIENT span: this package, or contrib's `opentelemetry-instrumentation-sqlalchemy`.

A statement has exactly one CLIENT span. Contrib's instrumentation belongs to the whole process, so its state is kept
here once, for all telemetries of the process:

- With `client_span = "contrib"`, it is switched on, and makes its spans with the provider of the telemetry that serves
  the request.
- If it is on only because the `opentelemetry-instrument` agent found the package, which is a dependency of ours, it is
  switched off for the engines whose spans we make.
- If the application switched it on, it stays on, and our attributes are added to its spans.

Contrib's dependency check refuses SQLAlchemy 2.1, although its code works there, so the check is skipped.
"""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum, auto
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.trace import TracerProvider
from sqlalchemy import Connection, Dialect, Engine, event

from otel_fastperf.errors import SetupError
from otel_fastperf.instrumentation.other_telemetry import AGENT
from otel_fastperf.instrumentation.routed_spans import RoutedProvider
from otel_fastperf.signals import Signals

if TYPE_CHECKING:
    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

ClientSpanSource = Literal["own", "contrib"]

_CONTRIB: Final = "opentelemetry.instrumentation.sqlalchemy"
_AGENT_SKIPS: Final = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"

_OWN: Final = "own CLIENT spans"
_FROM_CONTRIB: Final = "CLIENT spans of opentelemetry-instrumentation-sqlalchemy"
_JOINED: Final = f"{_FROM_CONTRIB}, which the application switched on"


def client_span_description(source: ClientSpanSource) -> str:
    """Describe the source, which need not be switched on yet, for `Telemetry.describe()`."""
    return _PROCESS.describe(source)


@contextmanager
def client_spans_from(
    source: ClientSpanSource,
    engines: "Sequence[Engine | AsyncEngine] | None",
    signals: Signals,
    provider: TracerProvider,
) -> Iterator[None]:
    """Use the source for the statements of `engines` (None: all) until the context manager exits.

    Raises:
        SetupError: `contrib` cannot patch SQLAlchemy because greenlet is not installed.
    """
    user = _User(source, None if engines is None else _by_dialect(engines), signals, provider)
    _PROCESS.enter(user)
    try:
        yield
    finally:
        _PROCESS.leave(user)


class _User(NamedTuple):
    """One telemetry: the source that it wants, the engines it is for (None: all), and where its spans go."""

    source: ClientSpanSource
    engines: dict[Dialect, Engine] | None
    signals: Signals
    provider: TracerProvider


class _SwitchedOnBy(Enum):
    """What had switched contrib's instrumentation on before the first telemetry was set up."""

    NO_ONE = auto()
    APP = auto()
    AGENT = auto()


class _Process:
    """Contrib's instrumentation of this process. Rearranged whenever a telemetry starts or ends, in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: list[_User] = []
        self._found = _SwitchedOnBy.NO_ONE
        self._agent = _AgentInstrumentation()
        self._own = _OwnInstrumentation()

    def describe(self, source: ClientSpanSource) -> str:
        with self._lock:
            found = self._found if self._users else _switched_on_by()
        if found is _SwitchedOnBy.APP:
            return _JOINED
        return _FROM_CONTRIB if source == "contrib" else _OWN

    def enter(self, user: _User) -> None:
        with self._lock:
            if not self._users:
                self._found = _switched_on_by()
            self._users.append(user)
            try:
                self._arrange()
            except BaseException:
                self._users.remove(user)
                raise

    def leave(self, user: _User) -> None:
        with self._lock:
            self._users.remove(user)
            self._arrange()

    def _arrange(self) -> None:
        if self._found is _SwitchedOnBy.AGENT:
            self._agent.leave_out([user.engines for user in self._users if user.source == "own"])
        elif self._found is _SwitchedOnBy.NO_ONE:
            self._own.serve([user for user in self._users if user.source == "contrib"])


class _AgentInstrumentation:
    """The agent's instrumentation, without the engines whose spans we make."""

    def __init__(self) -> None:
        self._engines: WeakSet[Engine] = WeakSet()
        self._is_as_found = True

    def leave_out(self, owned: list[dict[Dialect, Engine] | None]) -> None:
        """Trace the agent's engines except the owned ones (None: all). An empty list restores the agent's state."""
        if self._is_as_found and not owned:
            return
        self._is_as_found = not owned
        self._engines.update(_watched_engines())
        instrumentor = _instrumentor()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        ours: set[Dialect] = set()
        for engines in owned:
            if engines is None:
                return
            ours.update(engines)
        # as the agent did, except that contrib then traced engines as they were made; now they must be passed
        rest = [engine for engine in self._engines if engine.dialect not in ours]
        instrumentor.instrument(skip_dep_check=True, engines=rest)
        if owned:
            _drop_connect_spans()


class _OwnInstrumentation:
    """Contrib's instrumentation as we switch it on, for all telemetries that want its spans."""

    def __init__(self) -> None:
        self._on = ExitStack()

    def serve(self, users: list[_User]) -> None:
        """Trace the engines of these telemetries, and no others."""
        self._on.close()
        if not users or _is_on():
            return
        self._on.enter_context(_instrumented(users))


@contextmanager
def _instrumented(users: list[_User]) -> Iterator[None]:
    _check_greenlet()
    chosen: dict[Dialect, Engine] = {}
    for user in users:
        chosen.update(user.engines or {})
    provider = RoutedProvider(tuple(users))
    instrumentor = _instrumentor()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True, engines=list(chosen.values()))
    _drop_connect_spans()
    try:
        if any(user.engines is None for user in users):
            with _every_engine(provider):
                yield
        else:
            _leave_new_engines()
            yield
    finally:
        # the application may have switched it off
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


@contextmanager
def _every_engine(provider: RoutedProvider) -> Iterator[None]:
    """Have contrib trace each engine from its first connection on.

    Contrib itself traces only engines made later, and only if `create_engine` was not imported before.
    """
    from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

    seen: WeakSet[Engine] = WeakSet()
    tracer = provider.get_tracer(_CONTRIB)
    usage = metrics.get_meter(_CONTRIB).create_up_down_counter("db.client.connections.usage", "connections")

    def engine_connect(connection: Connection) -> None:
        try:
            watch(connection.engine)
        except Exception as error:  # noqa: BLE001 - telemetry must not make a check-out fail
            for user in provider.users[:1]:
                user.signals.guard.failed("database", error)

    def watch(engine: Engine) -> None:
        if engine in seen:
            return
        seen.add(engine)
        # the copies that `execution_options()` returns share the events of their engine
        while (proxied := getattr(engine, "_proxied", None)) is not None:
            engine = proxied
        if engine not in _watched_engines():
            EngineTracer(tracer, engine, usage)  # type: ignore[no-untyped-call]

    event.listen(Engine, "engine_connect", engine_connect)
    try:
        yield
    finally:
        event.remove(Engine, "engine_connect", engine_connect)


def _by_dialect(engines: "Sequence[Engine | AsyncEngine]") -> dict[Dialect, Engine]:
    """One sync engine per dialect: the copies that `execution_options()` returns share their dialect."""
    chosen: dict[Dialect, Engine] = {}
    for engine in engines:
        chosen.setdefault(engine.dialect, engine if isinstance(engine, Engine) else engine.sync_engine)
    return chosen


def _switched_on_by() -> _SwitchedOnBy:
    if not _is_on():
        return _SwitchedOnBy.NO_ONE
    return _SwitchedOnBy.AGENT if _agent_has_loaded_it() else _SwitchedOnBy.APP


def _is_on() -> bool:
    # if it was never imported, it is off; importing it is slow
    return _CONTRIB in sys.modules and bool(_instrumentor().is_instrumented_by_opentelemetry)


def _agent_has_loaded_it() -> bool:
    """True if the agent runs and has not skipped the package, be it by its variable or for the SQLAlchemy version."""
    if AGENT not in sys.modules:
        return False
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts

    skipped = {name.strip() for name in os.environ.get(_AGENT_SKIPS, "").split(",")}
    refused = get_dependency_conflicts(_instrumentor().instrumentation_dependencies())
    return refused is None and not skipped & {"sqlalchemy", "*"}


def _instrumentor() -> Any:  # contrib checks no types
    # imported when used, because the import takes 30 ms
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    return SQLAlchemyInstrumentor()


def _watched_engines() -> WeakSet[Engine]:
    """The engines that contrib listens to, from its private list."""
    from opentelemetry.instrumentation.sqlalchemy.engine import EngineTracer

    listeners = getattr(EngineTracer, "_remove_event_listener_params", ())
    return WeakSet(engine for reference, *_ in listeners if (engine := reference()) is not None)


def _drop_connect_spans() -> None:
    """Remove contrib's span `connect` for each check-out from a pool; our pool metrics measure that."""
    unwrap(Engine, "connect")


def _leave_new_engines() -> None:
    """Keep contrib from tracing engines that are made from now on."""
    for module in ("sqlalchemy", "sqlalchemy.engine", "sqlalchemy.engine.create"):
        unwrap(import_module(module), "create_engine")
    unwrap(import_module("sqlalchemy.ext.asyncio"), "create_async_engine")


def _check_greenlet() -> None:
    try:
        import_module("sqlalchemy.ext.asyncio")
    except ImportError as error:
        message = (
            "database.client_span='contrib': opentelemetry-instrumentation-sqlalchemy also patches"
            " sqlalchemy.ext.asyncio, which needs greenlet, and greenlet is not installed."
            " Remedy: install greenlet, or leave database.client_span at 'own'."
        )
        raise SetupError(message) from error


_PROCESS: Final = _Process()
