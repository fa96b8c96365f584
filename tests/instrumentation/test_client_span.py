"""CLIENT spans come from us or from contrib: exactly one per statement, and undone in any order."""

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.instrumentation import dependencies
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from otel_fastperf import Settings, SetupError, Telemetry, setup_telemetry
from otel_fastperf.instrumentation import other_telemetry
from otel_fastperf.instrumentation.client_span import client_span_description, client_spans_from
from otel_fastperf.instrumentation.statements import instrument_database
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import DatabaseSettings
from tests.conftest import Probe, signals_of
from tests.instrumentation.test_statements import counted, request, run, run_async

CONTRIB = "opentelemetry.instrumentation.sqlalchemy"
OURS = "otel_fastperf"


class Service:
    """One telemetry: signals with their own provider, and the spans that reached it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.failures: list[str] = []
        tracer = self.provider.get_tracer(OURS)
        self.signals = signals_of(tracer, Metrics(), Guard(self.failures.append))
        self.probe = Probe(self.signals, self.exporter, self.failures)

    @contextmanager
    def observed(self, source: Any, *engines: Any) -> Iterator[str]:
        """Observe the engines, or all, as `setup_telemetry` does."""
        chosen = engines or None
        description = client_span_description(source)
        with (
            client_spans_from(source, chosen, self.signals, self.provider),
            instrument_database(chosen, DatabaseSettings(), self.signals),
        ):
            yield description

    def sources(self) -> list[str]:
        """The scope of each CLIENT span since the last call."""
        spans = [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
        self.exporter.clear()
        return [scope_of(span) for span in spans]


def scope_of(span: ReadableSpan) -> str:
    assert span.instrumentation_scope is not None
    return span.instrumentation_scope.name


@pytest.fixture(autouse=True)
def _contrib_is_off_at_the_end() -> Iterator[None]:
    before = (sqlalchemy.create_engine, Engine.connect, sqlalchemy.ext.asyncio.create_async_engine)
    yield
    assert not SQLAlchemyInstrumentor().is_instrumented_by_opentelemetry
    assert (sqlalchemy.create_engine, Engine.connect, sqlalchemy.ext.asyncio.create_async_engine) == before


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Three engines."""
    # endpoints that are `def` use them in a thread, and this thread closes the connections
    arguments = {"check_same_thread": False}
    made = [create_engine("sqlite://", poolclass=StaticPool, connect_args=arguments) for _ in range(3)]
    yield made
    for engine in made:
        engine.dispose()


# contrib's spans, chosen by the setting


def test_contrib_s_span_is_the_only_one_and_carries_our_attributes(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib") as description, request(service.signals) as record:
        run(engines[0])
    assert description == "CLIENT spans of opentelemetry-instrumentation-sqlalchemy"
    (span,) = [span for span in service.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert scope_of(span) == CONTRIB
    assert span.attributes is not None
    assert span.attributes["db.query.summary"] == "SELECT"
    assert span.attributes["db.system.name"] == "sqlite"
    assert span.parent is not None
    assert span.parent.span_id == record.span.get_span_context().span_id
    assert record.db_statements == 1
    assert counted(service.probe, "SELECT") == 1
    assert service.failures == []


def test_engines_are_traced_whenever_and_however_they_are_created(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib"):
        by_older_name = create_engine("sqlite://", poolclass=StaticPool)  # bound before contrib patches it
        by_new_name = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
        for engine in (engines[0], by_older_name, by_new_name, engines[0].execution_options(stream_results=False)):
            run(engine)
            run(engine)
            assert service.sources() == [CONTRIB] * 2
        by_older_name.dispose()
        by_new_name.dispose()


@pytest.mark.anyio
async def test_async_engines_are_traced(service: Service) -> None:
    before = create_async_engine("sqlite+aiosqlite://")
    with service.observed("contrib"):
        after = sqlalchemy.ext.asyncio.create_async_engine("sqlite+aiosqlite://")
        for engine in (before, after):
            await run_async(engine)
            await run_async(engine)
            assert service.sources() == [CONTRIB] * 2
    await run_async(before)
    assert service.sources() == []
    await before.dispose()
    await after.dispose()


@pytest.mark.anyio
async def test_a_chosen_async_engine_is_traced(service: Service) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with service.observed("contrib", engine):
        await run_async(engine)
    assert service.sources() == [CONTRIB]
    await engine.dispose()


def test_only_the_chosen_engines_are_traced(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib", engines[0]):
        late = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
        for engine in (*engines, late):
            run(engine)
        assert service.sources() == [CONTRIB]
        late.dispose()


def test_a_failed_statement_has_contrib_s_span_and_our_error_type(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib"), pytest.raises(OperationalError):
        run(engines[0], "SELECT nonsense")
    (span,) = service.exporter.get_finished_spans()
    assert scope_of(span) == CONTRIB
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "SQLITE_ERROR"
    assert counted(service.probe, "SELECT", "SQLITE_ERROR") == 1


def test_statements_of_an_excluded_request_have_no_span(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib"), request(service.signals, excluded=True) as record:
        run(engines[0])
    assert service.sources() == []
    assert record.db_statements == 0


def test_repeats_are_found_on_contrib_s_spans_too(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib"), request(service.signals) as record:
        for number in range(10):
            run(engines[0], "SELECT :number", number=number)
    (group,) = record.statements.values()
    assert group.count == group.sequential == 10
    assert group.lines
    assert service.sources() == [CONTRIB] * 10


def test_everything_is_undone_at_the_end(service: Service, engines: list[Engine]) -> None:
    with service.observed("contrib"):
        run(engines[0])
    service.exporter.clear()
    run(engines[0])
    with service.observed("own"):
        run(engines[0])
    assert service.sources() == [OURS]
    with service.observed("contrib"):
        run(engines[0])
    assert service.sources() == [CONTRIB]


def test_without_greenlet_the_error_names_the_remedy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy.ext.asyncio", None)
    with pytest.raises(SetupError, match=r"needs greenlet.* Remedy: install greenlet"), service.observed("contrib"):
        pass
    with service.observed("own") as description:
        assert description == "own CLIENT spans"


# two telemetries


@pytest.mark.parametrize("first_out", [0, 1])
def test_statements_of_each_request_go_to_the_provider_of_its_telemetry(engines: list[Engine], first_out: int) -> None:
    services = [Service(), Service()]
    with ExitStack() as outer:
        exits = [ExitStack(), ExitStack()]
        for each, leave in zip(services, exits, strict=True):
            outer.enter_context(leave)
            leave.enter_context(each.observed("contrib"))
        for each in services:
            with request(each.signals):
                run(engines[0])
            assert each.sources() == [CONTRIB]
        run(engines[0])
        assert [each.sources() for each in services] == [[], [CONTRIB]]

        exits[first_out].close()
        remaining, gone = services[1 - first_out], services[first_out]
        with request(remaining.signals):
            run(engines[0])
        assert remaining.sources() == [CONTRIB]
        assert gone.sources() == []


def test_a_telemetry_with_own_spans_works_beside_one_with_contrib_s(engines: list[Engine]) -> None:
    own, other = Service(), Service()
    with own.observed("own"), other.observed("contrib"):
        with request(own.signals):
            run(engines[0])
        assert (own.sources(), other.sources()) == ([OURS], [])
        with request(other.signals):
            run(engines[0])
        assert (own.sources(), other.sources()) == ([], [CONTRIB])


# switched on by the application


@contextmanager
def instrumented(provider: TracerProvider, **how: Any) -> Iterator[None]:
    """Contrib's instrumentation, switched on by the app, even on SQLAlchemy 2.1."""
    SQLAlchemyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True, **how)
    try:
        yield
    finally:
        SQLAlchemyInstrumentor().uninstrument()


@pytest.mark.parametrize("source", ["own", "contrib"])
def test_the_application_s_own_instrumentation_stays_and_is_joined(
    service: Service, engines: list[Engine], source: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = Service()
    with instrumented(theirs.provider, engine=engines[0]):
        with service.observed(source) as description:
            assert description == (
                "CLIENT spans of opentelemetry-instrumentation-sqlalchemy, which the application switched on"
            )
            run(engines[0])
            assert counted(service.probe, "SELECT") == 1
        assert theirs.sources()[-1:] == [CONTRIB]
        run(engines[0])
        assert theirs.sources()[-1:] == [CONTRIB]
    assert service.sources() == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# switched on by the agent


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The state under `opentelemetry-instrument` with an SQLAlchemy that contrib supports."""
    monkeypatch.setitem(sys.modules, other_telemetry.AGENT, sys)
    monkeypatch.setattr(dependencies, "get_dependency_conflicts", lambda _wanted: None)
    service = Service()
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", service.provider)
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)
    yield service
    SQLAlchemyInstrumentor().uninstrument()


def test_under_the_agent_our_span_is_the_only_one(service: Service, agent: Service) -> None:
    before = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    run(before)
    assert agent.sources() == ["opentelemetry.instrumentation.sqlalchemy"] * 2  # with its `connect`
    with service.observed("own") as description:
        assert description == "own CLIENT spans"
        after = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
        run(before)
        run(after)
        assert service.sources() == [OURS] * 2
        after.dispose()
    assert agent.sources() == []
    run(before)
    assert agent.sources()[-1:] == [CONTRIB]
    before.dispose()


def test_under_the_agent_engines_that_we_do_not_observe_keep_its_spans(service: Service, agent: Service) -> None:
    ours, theirs = (sqlalchemy.create_engine("sqlite://", poolclass=StaticPool) for _ in range(2))
    with service.observed("own", ours):
        later = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
        for engine in (ours, theirs, later):
            run(engine)
        assert service.sources() == [OURS]
        assert agent.sources() == [CONTRIB] * 2
    for engine in (ours, theirs, later):
        engine.dispose()


def test_under_the_agent_contrib_s_spans_stay_if_the_setting_says_so(service: Service, agent: Service) -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    with service.observed("contrib"):
        run(engine)
    assert agent.sources()[-1:] == [CONTRIB]
    assert counted(service.probe, "SELECT") == 1
    engine.dispose()


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_agent_s_instrumentation_is_off_until_the_last_telemetry_ends(agent: Service, first_out: int) -> None:
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    services, exits = [Service(), Service()], [ExitStack(), ExitStack()]
    for each, leave in zip(services, exits, strict=True):
        leave.enter_context(each.observed("own"))
    exits[first_out].close()
    run(engine)
    assert services[1 - first_out].sources() == [OURS]
    assert agent.sources() == []
    exits[1 - first_out].close()
    run(engine)
    assert agent.sources()[-1:] == [CONTRIB]
    engine.dispose()


def test_instrumentation_that_the_agent_skips_belongs_to_the_application(
    service: Service, agent: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "flask, sqlalchemy")
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    with service.observed("own"):
        run(engine)
    assert agent.sources()[-1:] == [CONTRIB]
    assert service.sources() == []
    engine.dispose()


AGENT_SCRIPT = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import StaticPool
    from otel_fastperf import setup_telemetry

    exporter = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    engine = create_engine("sqlite://", poolclass=StaticPool)
    app = FastAPI()

    @app.get("/")
    def one() -> int:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT 1"))

    setup_telemetry(app)
    with TestClient(app) as client:
        client.get("/")
    print(*(span.instrumentation_scope.name for span in exporter.get_finished_spans() if span.kind.name == "CLIENT"))
"""


def test_the_real_agent_adds_no_second_span_to_a_statement(tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(textwrap.dedent(AGENT_SCRIPT))
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    # OpenTelemetry's own distro; ours is tested in tests/zero_code
    environment |= {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
    environment |= {"OTEL_LOGS_EXPORTER": "none", "PYTHONPATH": str(Path(__file__).parents[2])}
    agent = Path(sys.executable).parent / "opentelemetry-instrument"
    done = subprocess.run(
        [str(agent), sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.split() == [OURS], done.stderr


# through setup_telemetry


def orders(engine: Engine) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def loop() -> int:
        with engine.connect() as connection:
            return sum(connection.scalars(text("SELECT :n"), {"n": n}).one() for n in range(8))

    return app


def set_up(app: FastAPI, source: str, **database: Any) -> Telemetry:
    return setup_telemetry(app, settings=Settings(database={"client_span": source, **database}))


@pytest.mark.parametrize(("source", "scope"), [("own", OURS), ("contrib", CONTRIB)])
def test_findings_are_the_same_for_both_sources(engines: list[Engine], source: str, scope: str) -> None:
    app = orders(engines[0])
    with set_up(app, source, n_plus_one_seconds=0) as telemetry, TestClient(app) as client:
        assert client.get("/").json() == 28
        spans = [span for span in telemetry.spans() if span.kind is SpanKind.CLIENT]
        assert [scope_of(span) for span in spans] == [scope] * 8
        (server,) = [span for span in telemetry.spans() if span.kind is SpanKind.SERVER]
        assert {span.parent.span_id for span in spans if span.parent} == {server.context.span_id}
        assert "n_plus_one" in {finding.kind for finding in telemetry.findings()}


def test_describe_names_the_source(engines: list[Engine]) -> None:
    app = orders(engines[0])
    with set_up(app, "contrib") as telemetry:
        assert (
            "database: on, every SQLAlchemy engine of the process,"
            " CLIENT spans of opentelemetry-instrumentation-sqlalchemy"
        ) in telemetry.describe()
    with set_up(app, "own") as telemetry:
        assert "database: on, every SQLAlchemy engine of the process, own CLIENT spans" in telemetry.describe()


def test_the_source_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_DATABASE_CLIENT_SPAN", "contrib")
    assert Settings().database.client_span == "contrib"
