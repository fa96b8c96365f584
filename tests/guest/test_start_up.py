"""What an app runs while it starts makes one trace, under any server; what goes on afterwards is not part of it."""

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from otel_fastperf import Settings, setup_telemetry
from tests.otlp import ReceivedSpan, Receiver
from tests.serving import run_server, serve, wait_until

START_UP = "lifespan startup"
TABLES = 20
#: those of `tests.guest.starting`, which this process must not import: it sets its app up
FEW = 5

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


@pytest.fixture(autouse=True)
def _own_global_provider() -> Iterator[None]:
    """Reset the global provider, which would change the next test."""
    yield
    trace._TRACER_PROVIDER = None  # the API has no public way to reset it
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield engine
    engine.dispose()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def create_all(connection: Connection, name: str = "t") -> None:
    for number in range(TABLES):
        connection.execute(text(f"CREATE TABLE {name}{number} (id INTEGER)"))


def created(engine: Engine, name: str = "t") -> None:
    with engine.begin() as connection:
        create_all(connection, name)


def app_with(before: Callable[[], Any], engine: Engine | None = None) -> FastAPI:
    """An app that awaits `before()` in its lifespan, and has a route with a statement."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await before()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    def root() -> None:
        if engine is not None:
            select(engine)

    return app


def select(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def is_statement(span: ReadableSpan) -> bool:
    return span.kind is SpanKind.CLIENT and span.name.split()[0] in {"CREATE", "INSERT", "SELECT"}


def start_up_of(spans: Any) -> tuple[ReadableSpan, list[str]]:
    """The one span of a start-up, and the names of the statements that are its children."""
    (root,) = (span for span in spans if span.name == START_UP)
    ids = root.context
    children = [span for span in spans if span.parent is not None and span.parent.span_id == ids.span_id]
    assert all(span.context.trace_id == ids.trace_id for span in children)
    return root, [span.name for span in children if is_statement(span)]


def roots(spans: Any) -> list[str]:
    return [span.name for span in spans if span.parent is None]


def started(app: FastAPI, *, server: str = "uvicorn", **settings: Any) -> tuple[ReadableSpan, ...]:
    """The spans of an app that has been started and asked once."""
    with setup_telemetry(app, settings=Settings(loop={"blocked": 60}, **settings)) as telemetry:
        if server == "uvicorn":
            with serve(app) as served:
                assert served.get("/").status == 200
                return telemetry.spans()
        with TestClient(app) as client:
            assert client.get("/").status_code == 200
            return telemetry.spans()


async def in_coroutine(engine: Engine) -> None:
    created(engine)


async def by_to_thread(engine: Engine) -> None:
    await asyncio.to_thread(created, engine)


async def by_executor(engine: Engine) -> None:
    """Which hands no context on."""
    await asyncio.get_running_loop().run_in_executor(None, created, engine)


async def in_a_task(engine: Engine) -> None:
    await asyncio.create_task(in_coroutine(engine))


async def by_run_sync(_engine: Engine) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(create_all)
    await engine.dispose()


@pytest.mark.parametrize("server", ["uvicorn", "TestClient"])
@pytest.mark.parametrize("seed", [in_coroutine, by_to_thread, by_executor, in_a_task, by_run_sync])
def test_the_statements_of_a_start_up_are_one_trace(engine: Engine, seed: Any, server: str) -> None:
    spans = started(app_with(partial(seed, engine), engine), server=server)
    root, statements = start_up_of(spans)
    assert len(statements) == TABLES
    assert root.parent is None
    assert root.attributes == {"asgi.event.type": "lifespan.startup"}
    assert root.status.status_code is StatusCode.UNSET
    assert sorted(roots(spans)) == ["GET /", START_UP]
    inner = [span for span in spans if span.parent is not None and span.parent.span_id == root.context.span_id]
    assert all(root.start_time <= span.start_time and span.end_time <= root.end_time for span in inner)  # type: ignore[operator]


def test_the_handlers_of_the_event_startup_are_traced_too(engine: Engine) -> None:
    app = FastAPI()
    app.router.on_startup.append(partial(created, engine))
    app.get("/")(lambda: None)
    assert len(start_up_of(started(app))[1]) == TABLES


def test_spans_of_the_app_s_own_are_in_the_trace(engine: Engine) -> None:
    tracer = trace.get_tracer("shop")

    async def seed() -> None:
        trace.get_current_span().set_attribute("shop.version", 3)
        with tracer.start_as_current_span("seed"):
            created(engine)

    spans = started(app_with(seed))
    (root,) = (span for span in spans if span.name == START_UP)
    (own,) = (span for span in spans if span.name == "seed")
    assert own.parent is not None
    assert own.parent.span_id == root.context.span_id
    assert root.attributes is not None
    assert root.attributes["shop.version"] == 3
    assert sorted(roots(spans)) == ["GET /", START_UP]


@pytest.mark.parametrize("server", ["uvicorn", "TestClient"])
def test_an_app_that_traces_nothing_while_it_starts_has_no_such_span(server: str) -> None:
    async def seed() -> None:
        pass

    without = FastAPI()
    without.get("/")(lambda: None)
    for app in (without, app_with(seed)):
        assert [span.name for span in started(app, server=server)] == ["GET /"]


def test_without_a_lifespan_there_is_no_such_span(engine: Engine) -> None:
    app = app_with(partial(in_coroutine, engine), engine)
    with setup_telemetry(app, settings=Settings(loop={"blocked": 60})) as telemetry:
        with serve(app, lifespan="off") as server:
            server.get("/")
        assert roots(telemetry.spans()) == ["GET /"]


def test_a_start_up_that_fails_is_exported_with_its_reason(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def seed() -> None:
        created(engine)
        raise RuntimeError("no migration")

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    app = app_with(seed)
    telemetry = setup_telemetry(app)
    with pytest.raises(RuntimeError, match="no migration"), TestClient(app):
        pass
    telemetry.shutdown()
    spans = list(receiver.spans)
    (root,) = (span for span in spans if span.name == START_UP)
    assert [event.name for event in root.events] == ["exception"]
    assert sum(span.parent_id == root.span_id and span.name.startswith("CREATE") for span in spans) == TABLES


def test_a_start_up_that_fails_has_a_span_without_statements_too() -> None:
    async def seed() -> None:
        raise RuntimeError("no database")

    app, exporter = app_with(seed), InMemorySpanExporter()
    trace.set_tracer_provider(provider_for(exporter))
    with setup_telemetry(app), pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass
    (root,) = exporter.get_finished_spans()
    assert (root.name, root.status.status_code) == (START_UP, StatusCode.ERROR)
    assert root.attributes is not None
    assert root.attributes["error.type"] == "RuntimeError"


def provider_for(exporter: InMemorySpanExporter, *processors: SpanProcessor) -> TracerProvider:
    provider = TracerProvider()
    for processor in (*processors, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    return provider


def late_work(engine: Engine, go: threading.Event, done: threading.Event) -> Callable[[], Any]:
    """A start-up that leaves behind a task and a thread, which work when `go` is set."""
    tracer = trace.get_tracer("shop")
    tasks: list[Any] = []

    def in_thread() -> None:
        go.wait(60)
        select(engine)
        done.set()

    async def in_task() -> None:
        while not done.is_set():
            await asyncio.sleep(0.01)
        with tracer.start_as_current_span("late job"):
            select(engine)
        select(engine)

    async def seed() -> None:
        created(engine)
        thread = threading.Thread(target=in_thread, daemon=True)
        thread.start()
        tasks.append(asyncio.create_task(in_task()))
        await asyncio.sleep(0)

    return seed


@pytest.mark.parametrize("provider", ["ours", "theirs"])
def test_tasks_and_threads_that_outlive_the_start_up_leave_its_trace(engine: Engine, provider: str) -> None:
    exporter, go, done = InMemorySpanExporter(), threading.Event(), threading.Event()
    if provider == "theirs":
        trace.set_tracer_provider(provider_for(exporter))
    app = app_with(late_work(engine, go, done), engine)
    with setup_telemetry(app, settings=Settings(loop={"blocked": 60})) as telemetry:
        spans = telemetry.spans if provider == "ours" else exporter.get_finished_spans
        with serve(app) as server:
            root, statements = start_up_of(spans())
            assert len(statements) == TABLES
            go.set()

            def late() -> list[ReadableSpan]:
                telemetry.flush()
                return [span for span in spans() if span.name.startswith("SELECT") or span.name == "late job"]

            wait_until(lambda: len(late()) == 4, what="what is left behind has worked")
            server.get("/")
            assert all(span.context.trace_id != root.context.trace_id for span in late())
        assert {name for name in roots(spans()) if not name.startswith("SELECT")} == {"GET /", "late job", START_UP}


def test_the_app_s_own_context_outlives_the_start_up(engine: Engine) -> None:
    """A span or baggage that the lifespan puts into the context, for the time until it ends."""
    seen: list[Any] = []
    tracer = trace.get_tracer("shop")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        created(engine)
        token = context.attach(baggage.set_baggage("shop", "books"))
        with tracer.start_as_current_span("life") as span:
            yield
            seen.append(trace.get_current_span() is span)
        seen.append(trace.get_current_span().get_span_context().is_valid)
        seen.append(baggage.get_baggage("shop"))
        context.detach(token)

    app = FastAPI(lifespan=lifespan)
    app.get("/")(lambda: None)
    spans = started(app)
    assert seen == [True, False, "books"]
    assert sorted(roots(spans)) == ["GET /", START_UP]


@pytest.mark.anyio
async def test_whoever_enters_the_lifespan_keeps_a_clean_context(engine: Engine) -> None:
    app = app_with(partial(in_coroutine, engine))
    with setup_telemetry(app) as telemetry:
        before = context.get_current()
        async with app.router.lifespan_context(app):
            assert context.get_current() == before
            select(engine)
            telemetry.flush()
            root, statements = start_up_of(telemetry.spans())
            assert len(statements) == TABLES
            (own,) = (span for span in telemetry.spans() if span.name.startswith("SELECT"))
            assert own.context.trace_id != root.context.trace_id


@pytest.mark.parametrize("source", ["own", "native", "contrib"])
def test_beside_another_provider_and_other_server_spans(engine: Engine, source: Any) -> None:
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(provider_for(exporter))
    app = app_with(partial(in_coroutine, engine), engine)
    if source == "native" and not hasattr(app, "_telemetry"):
        pytest.skip("this version of FastAPI has no telemetry")
    with setup_telemetry(app, settings=Settings(server_span=source, loop={"blocked": 60})), TestClient(app) as client:
        assert client.get("/").status_code == 200
    spans = exporter.get_finished_spans()
    assert len(start_up_of(spans)[1]) == TABLES
    assert sorted(roots(spans)) == ["GET /", START_UP]
    FastAPIInstrumentor.uninstrument_app(app)


def test_a_second_start_has_a_trace_of_its_own(engine: Engine) -> None:
    names = iter("ab")
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(provider_for(exporter))

    async def seed() -> None:
        created(engine, next(names))

    app = app_with(seed)
    telemetry = setup_telemetry(app, settings=Settings(loop={"blocked": 60}))
    for _ in range(2):
        with TestClient(app) as client:
            client.get("/")
    telemetry.shutdown()
    both = [span for span in exporter.get_finished_spans() if span.name == START_UP]
    assert len({span.context.trace_id for span in both}) == 2


class Failing(SpanProcessor):
    """Another's processor, which reads the current span while one is started, and may fail."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        trace.get_current_span().get_span_context()
        if self.fails:
            raise RuntimeError("a broken processor")


@pytest.mark.parametrize("fails", [False, True])
def test_a_processor_of_others_never_keeps_the_app_from_starting(engine: Engine, fails: bool) -> None:
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(provider_for(exporter, Failing(fails=fails)))
    app = app_with(partial(in_coroutine, engine), engine)
    with setup_telemetry(app) as telemetry, TestClient(app) as client:
        assert client.get("/").status_code == 200
        errors = telemetry.metrics.registry.get_sample_value("fastperf_telemetry_errors_total", {"part": "start_up"})
    assert bool(errors) == fails
    assert (START_UP in [span.name for span in exporter.get_finished_spans()]) != fails


def test_sampling_is_decided_for_the_whole_start_up(engine: Engine) -> None:
    spans = started(
        app_with(partial(in_coroutine, engine)), traces={"sampler": "parentbased_traceidratio", "sampler_arg": 0.0}
    )
    assert not spans


SERVERS = {
    "uvicorn": ["uvicorn", "tests.guest.starting:app", "--port", "{port}", "--workers", "2"],
    "gunicorn --preload": [
        *("gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker", "--preload"),
        "tests.guest.starting:app",
    ],
    "hypercorn": ["hypercorn", "-w", "2", "-b", "127.0.0.1:{port}", "tests.guest.starting:app"],
    "granian": ["granian", "--interface", "asgi", "--workers", "2", "--port", "{port}", "tests.guest.starting:app"],
    "otel-fastperf run": [
        *("otel_fastperf", "run", "uvicorn", "tests.guest.starting:bare", "--port", "{port}", "--workers", "2"),
    ],
}


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_each_worker_has_one_trace_of_its_start(command: list[str], receiver: Receiver, tmp_path: Path) -> None:
    if command[0] != "otel_fastperf" and importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if command[0] == "granian" and version("granian").startswith("2.0."):
        pytest.skip("under granian 2.0 asyncio.all_tasks() fails, and with it `def` endpoints of a bare app")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_FASTPERF_LOOP_BLOCKED": "60"}
    with run_server(command, log=tmp_path / "log", environment=environment) as server:
        assert [server.get(f"/items/{number}").status for number in range(20)] == [200] * 20
        wait_until(lambda: len(of_workers(receiver.spans)) == 2, what="both workers have started")
        server.stop()
    spans = list(receiver.spans)
    for pid, own in of_workers(spans).items():
        assert [span.name for span in own].count(START_UP) == 1, pid
        (start_up,) = (span for span in own if span.name == START_UP)
        created = [span for span in own if span.name.startswith("CREATE")]
        assert len(created) == FEW
        assert {span.trace_id for span in created} == {start_up.trace_id}
        assert {span.parent_id for span in created} == {start_up.span_id}
        assert {span.name for span in own if not span.parent_id} <= {START_UP, "GET /items/{item_id}"}
    served = [span for span in spans if span.name == "GET /items/{item_id}"]
    assert len({span.trace_id for span in served}) == 20


def of_workers(spans: list[ReceivedSpan]) -> dict[int, list[ReceivedSpan]]:
    """The spans by the process that made them, of those that have started the app."""
    pids = {span.resource["process.pid"] for span in spans if span.name == START_UP}
    return {pid: [span for span in spans if span.resource["process.pid"] == pid] for pid in pids}
