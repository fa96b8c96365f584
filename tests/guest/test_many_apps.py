"""Test suites make an app for each test, with telemetry in its factory, and never call `shutdown()`.

An app that nobody uses any more is freed, and its telemetry goes with it.
"""

import gc
import threading
import weakref
from collections.abc import Iterator
from traceback import walk_stack
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from sqlalchemy import Engine, StaticPool, create_engine, text

from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.internals.patching import subscribers_of
from tests.otlp import Receiver
from tests.serving import wait_until
from tests.threads import new_threads

#: what a module of an app has
tracer = trace.get_tracer("shop")


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Free the apps of each test, also those that a failure keeps."""
    yield
    wait_until(lambda: not observers(), seconds=15, what="the telemetry of all apps has ended")
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    yield engine
    engine.dispose()


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    app = FastAPI()
    setup_telemetry(app, settings=settings)

    @app.get("/")
    async def root(background: BackgroundTasks) -> int:
        background.add_task(len, "")
        with tracer.start_as_current_span("work"), engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    return app


def asked(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """An app that has answered one request; no lifespan has run."""
    app = create_app(engine, settings)
    assert TestClient(app).get("/").json() == 1
    return app


def telemetry(app: FastAPI) -> Telemetry:
    return setup_telemetry(app)


def names(spans: tuple[ReadableSpan, ...]) -> list[str]:
    return sorted(span.name for span in spans)


def observers() -> int:
    """The telemetries that see each statement of SQLAlchemy, without those of apps that nobody has."""
    gc.collect()
    return len(subscribers_of(Engine, "statements"))


OF_A_REQUEST = ["BackgroundTask len", "GET /", "SELECT", "work"]


def test_an_app_that_is_gone_takes_its_telemetry_along(engine: Engine) -> None:
    apps = [weakref.ref(asked(engine)) for _ in range(20)]
    wait_until(lambda: not observers() and all(app() is None for app in apps), what="all apps are freed")
    app = asked(engine)
    assert observers() == 1
    assert names(telemetry(app).spans()) == OF_A_REQUEST
    telemetry(app).shutdown()


def test_a_statement_passes_through_as_many_calls_however_many_apps_there_are(engine: Engine) -> None:
    def depth_in(app: FastAPI) -> int:
        depths: list[int] = []

        @app.get("/depth")
        async def depth() -> None:
            with engine.connect() as connection:
                # of another name each time, because the driver keeps prepared statements
                driver: Any = connection.connection.dbapi_connection
                driver.create_function(f"look{id(app)}", 0, look)
                connection.execute(text(f"SELECT look{id(app)}()"))

        def look() -> int:
            depths.append(len(list(walk_stack(None))))
            return 0

        assert TestClient(app).get("/depth").status_code == 200
        return depths[0]

    apps = [asked(engine)]
    alone = depth_in(apps[0])
    apps += [asked(engine) for _ in range(20)]
    assert {depth_in(app) for app in apps[1:]} == {alone}
    for app in apps:
        telemetry(app).shutdown()


def test_spans_of_a_module_s_tracer_belong_to_the_app_that_serves_the_request(engine: Engine) -> None:
    apps = [create_app(engine) for _ in range(3)]
    for app in apps:
        TestClient(app).get("/")
    assert [names(telemetry(app).spans()) for app in apps] == [OF_A_REQUEST] * 3
    for app in apps:
        telemetry(app).shutdown()


def test_what_belongs_to_no_request_goes_to_the_newest_app_that_lives(engine: Engine) -> None:
    def work() -> None:
        with tracer.start_as_current_span("work"), engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    first, second, third = (create_app(engine) for _ in range(3))
    handles = [telemetry(app) for app in (first, second, third)]
    work()
    assert [names(handle.spans()) for handle in handles] == [[], [], ["SELECT", "work"]]
    handles[0].shutdown()
    handles[2].shutdown()
    work()
    assert [names(handle.spans()) for handle in handles] == [[], ["SELECT", "work"], ["SELECT", "work"]]
    handles[1].shutdown()


def test_an_abandoned_app_delivers_its_spans(engine: Engine) -> None:
    threads = threading.enumerate()
    with Receiver() as receiver:
        traces = {"base_endpoint": receiver.endpoint, "delay_ms": 60_000}
        asked(engine, Settings(traces=traces))
        wait_until(lambda: not observers(), what="the app is freed")
        wait_until(lambda: len(receiver.names) == len(OF_A_REQUEST), what="the spans arrive")
        assert sorted(receiver.names) == OF_A_REQUEST
    wait_until(lambda: not new_threads(threads), what="its threads end")
