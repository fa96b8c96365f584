"""`setup_telemetry` can be called anywhere, repeatedly and beside other instrumentation, and is undone completely."""

import asyncio
import gc
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import prometheus_client
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from otel_fastperf import Settings, SettingsError, SetupError, Telemetry, setup_telemetry
from otel_fastperf.instrumentation.other_telemetry import native_config
from tests.serving import ROOT, serve, wait_until
from tests.threads import new_threads


@pytest.fixture(autouse=True)
def _no_provider_is_left_behind() -> Iterator[None]:
    """Reset the global provider, which would change the next test."""
    yield
    provider = trace.get_tracer_provider()
    trace._TRACER_PROVIDER = None  # the API has no public way to reset it
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()
    assert isinstance(provider, trace.ProxyTracerProvider | TracerProvider)


@pytest.fixture(autouse=True)
def _no_spans_of_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stops this process for 0.1 s makes it a block of the event loop, which has a span."""
    monkeypatch.setenv("OTEL_FASTPERF_LOOP_BLOCKED", "60")


@pytest.fixture
def own() -> Iterator[list[Telemetry]]:
    """Handles put in here are shut down at the end."""
    handles: list[Telemetry] = []
    yield handles
    for handle in handles:
        handle.shutdown()


def items(app: FastAPI) -> FastAPI:
    router = APIRouter(prefix="/items")

    @router.get("/{item_id}")
    async def item(item_id: int) -> int:
        return item_id

    app.include_router(router, prefix="/api")
    return app


def names(spans: tuple[ReadableSpan, ...], kind: SpanKind = SpanKind.SERVER) -> list[str]:
    return [span.name for span in spans if span.kind is kind]


GET_ITEM = "GET /api/items/{item_id}"


class TestWhereItIsCalled:
    """Right after `app = FastAPI()`, at the end, in a factory, in the lifespan, after the first request."""

    def test_right_after_the_app_is_created(self, own: list[Telemetry]) -> None:
        app = FastAPI()
        own.append(setup_telemetry(app))
        items(app)
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]

    def test_at_the_end_of_the_module(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]

    def test_in_a_factory(self, own: list[Telemetry]) -> None:
        def create_app() -> FastAPI:
            app = items(FastAPI())
            own.append(setup_telemetry(app))
            return app

        with serve(create_app, factory=True) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]

    def test_in_the_lifespan_with_a_shutdown_after_the_yield(
        self, own: list[Telemetry], caplog: pytest.LogCaptureFixture
    ) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            own.append(setup_telemetry(app))
            yield
            own[0].shutdown()

        app = items(FastAPI(lifespan=lifespan))
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]
            assert server.get("/metrics").status == 200
            wait_until(
                lambda: (own[0].metrics.registry.get_sample_value("fastperf_event_loop_lag_seconds_count") or 0) > 0,
                what="the loop is watched",
            )
        assert "may be lost" not in caplog.text

    def test_as_a_context_manager_in_the_lifespan(self) -> None:
        spans: list[ReadableSpan] = []

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with setup_telemetry(app) as telemetry:
                yield
                spans.extend(telemetry.spans())

        app = items(FastAPI(lifespan=lifespan))
        with serve(app) as server:
            server.get("/api/items/1")
        assert names(tuple(spans)) == [GET_ITEM]
        assert app.middleware_stack is not None
        assert type(app.middleware_stack).__module__.startswith("starlette")

    def test_after_the_first_request(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        with serve(app) as server:
            server.get("/api/items/1")
            own.append(setup_telemetry(app))
            server.get("/api/items/2")
            assert names(own[0].spans()) == [GET_ITEM]

    def test_a_wrapped_app_is_refused_with_a_remedy(self) -> None:
        app = CORSMiddleware(FastAPI())
        with pytest.raises(
            SetupError,
            match=r"got starlette\.middleware\.cors\.CORSMiddleware\. It wraps one: .*right after app = FastAPI\(\)",
        ):
            setup_telemetry(app)  # type: ignore[arg-type]

    def test_a_starlette_app_is_observed_too(self, own: list[Telemetry]) -> None:
        from starlette.responses import PlainTextResponse

        app = Starlette(routes=[Route("/words/{word}", lambda _request: PlainTextResponse("ok"))])
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/words/hello")
            assert names(own[0].spans()) == ["GET /words/{word}"]

    def test_wrong_engines_are_refused_with_a_remedy(self) -> None:
        with pytest.raises(SetupError, match="engines= takes SQLAlchemy engines"):
            setup_telemetry(FastAPI(), engines="sqlite://")  # type: ignore[arg-type]

    def test_wrong_settings_fail_before_anything_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
        app = FastAPI()
        with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318'"):
            setup_telemetry(app)
        assert "build_middleware_stack" not in app.__dict__
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class TestHowOften:
    """Twice, many times, for several apps."""

    def test_a_second_call_for_the_same_app_returns_the_first_handle(
        self, own: list[Telemetry], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        assert setup_telemetry(app) is own[0]
        assert setup_telemetry(app, settings=Settings()) is own[0]
        assert "the settings of the first call stay in force" in caplog.text
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]
            assert 'http_route="/api/items/{item_id}"' in server.get("/metrics").text

    def test_two_apps_in_one_process_see_their_own_requests_and_statements(self, own: list[Telemetry]) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        apps = [items(FastAPI()), items(FastAPI())]
        own.extend(
            setup_telemetry(app, settings=Settings(service_name=f"app-{number}")) for number, app in enumerate(apps)
        )

        for app in apps:

            @app.get("/sql")
            def sql() -> int:
                with engine.connect() as connection:
                    return int(connection.execute(text("SELECT 1")).scalar_one())

        with serve(apps[0]) as first, serve(apps[1]) as second:
            first.get("/sql")
            second.get("/sql")
            second.get("/api/items/1")
            assert sorted(span.name for span in own[0].spans()) == ["GET /sql", "SELECT"]
            assert sorted(span.name for span in own[1].spans()) == [GET_ITEM, "GET /sql", "SELECT"]
            assert {span.resource.attributes["service.name"] for span in own[1].spans()} == {"app-1"}
            assert 'http_route="/api/items/{item_id}"' not in first.get("/metrics").text
        engine.dispose()

    @pytest.mark.skipif(sys.gettrace() is not None, reason="coverage's tracer keeps objects of each thread")
    def test_a_hundred_cycles_leave_no_threads_and_no_objects(self) -> None:
        app = items(FastAPI())

        def cycle() -> None:
            with setup_telemetry(app) as telemetry, TestClient(app) as client:
                client.get("/api/items/1")
                assert names(telemetry.spans()) == [GET_ITEM]

        cycle()
        gc.collect()
        threads, objects = threading.enumerate(), len(gc.get_objects())
        for _ in range(100):
            cycle()
        gc.collect()
        wait_until(lambda: not new_threads(threads), what="the threads end")
        assert len(gc.get_objects()) < objects + 5000

    def test_a_restarted_app_is_observed_again(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        for number in (1, 2):
            with serve(app) as server:
                server.get("/api/items/1")
                assert names(own[0].spans()) == [GET_ITEM]
                assert f'http_response_status_code="200",error_type="",url_scheme="http"}} {number}.0' in server.get(
                    "/metrics"
                ).text.replace(
                    'error_type="",http_request_method="GET",http_response_status_code="200",http_route="/api/items/{item_id}",url_scheme="http"',
                    'http_response_status_code="200",error_type="",url_scheme="http"',
                )

    def test_the_tracers_of_the_app_s_modules_survive_a_restart(self, own: list[Telemetry]) -> None:
        tracer = trace.get_tracer("the app's module")
        app = FastAPI()

        @app.get("/work")
        async def work() -> None:
            tracer.start_span("inner").end()

        own.append(setup_telemetry(app))
        for _ in (1, 2):
            with serve(app) as server:
                server.get("/work")
                assert [span.name for span in own[0].spans()] == ["inner", "GET /work"]


@pytest.mark.parametrize("version", ["1.4.2", ""])
def test_the_metrics_name_the_version_of_the_service(
    own: list[Telemetry], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    if version:
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"service.version={version}")
    own.append(setup_telemetry(items(FastAPI())))
    (family,) = (each for each in own[0].metrics.registry.collect() if each.name == "fastperf_build_info")
    assert [sample.labels["service_version"] for sample in family.samples] == [version]


class TestUndo:
    """`shutdown()`, and the end of the lifespan."""

    def test_shutdown_undoes_everything(self) -> None:
        from sqlalchemy.engine import Engine
        from starlette.background import BackgroundTask

        app = items(FastAPI())

        def touched() -> tuple[Any, ...]:
            return (
                logging.Logger.makeRecord,
                BackgroundTask.__call__,
                Engine.raw_connection,
                app.router.lifespan_context,
                dict(native_config(app) or {}),
                app.router.middleware_stack,
            )

        before, threads = touched(), threading.enumerate()
        telemetry = setup_telemetry(app)
        with TestClient(app) as client:
            client.get("/api/items/1")
        telemetry.shutdown()
        after = touched()
        assert after == before
        # the last of them may still return from telling that all is done
        wait_until(lambda: not new_threads(threads), what="the threads end")
        assert "build_middleware_stack" not in app.__dict__
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert type(app.middleware_stack).__module__.startswith("starlette")
        assert not [key for key in app.state._state if "fastperf" in key]

    def test_the_end_of_the_app_s_own_lifespan_undoes_it_too(self) -> None:
        steps: list[str] = []

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, str]]:
            steps.append("start")
            yield {"shared": "state"}
            steps.append("stop")

        app = items(FastAPI(lifespan=lifespan))

        @app.get("/state")
        async def state(request: Any) -> str:
            return str(request.state.shared)

        telemetry = setup_telemetry(app)
        with serve(app) as server:
            server.get("/api/items/1")
        assert steps == ["start", "stop"]
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        telemetry.shutdown()

    @pytest.mark.parametrize("order", [iter, reversed], ids=["in the order of set-up", "in reverse"])
    def test_hundreds_of_overlapping_apps_leave_nothing_behind(self, order: Any) -> None:
        """Wrappers that merely restore their predecessor would pile up and revive those of apps already shut down."""
        from fastapi import routing
        from sqlalchemy.engine import Engine
        from starlette.background import BackgroundTask

        def touched() -> tuple[Any, ...]:
            return (
                logging.Logger.makeRecord,
                BackgroundTask.__call__,
                Engine.raw_connection,
                vars(routing)["solve_dependencies"],
                vars(routing)["run_endpoint_function"],
                propagate.get_global_textmap(),
            )

        def depth() -> int:
            """The number of stack frames at the creation of a log record."""
            depths: list[int] = []

            def counting(*arguments: Any, **options: Any) -> logging.LogRecord:
                frame, number = sys._getframe(), 0
                while frame is not None:
                    frame, number = frame.f_back, number + 1  # type: ignore[assignment]
                depths.append(number)
                return logging.LogRecord(*arguments, **options)

            factory = logging.getLogRecordFactory()
            logging.setLogRecordFactory(counting)
            logging.getLogger("an app's").warning("hello")
            logging.setLogRecordFactory(factory)
            return depths[0]

        before, shallow = touched(), depth()
        settings = Settings(propagators=("tracecontext",))
        handles = [setup_telemetry(items(FastAPI()), settings=settings) for _ in range(200)]
        assert depth() <= shallow + 3
        for handle in order(handles):
            handle.shutdown()
        assert touched() == before

    def test_a_set_up_that_fails_half_way_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import otel_fastperf.parts as module

        def fails(*_args: Any, **_kwargs: Any) -> None:
            raise OSError("no")

        monkeypatch.setattr(module, "instrument_pool", fails)
        app = FastAPI()
        record = logging.Logger.makeRecord
        with pytest.raises(OSError, match="no"):
            setup_telemetry(app)
        assert "build_middleware_stack" not in app.__dict__
        assert logging.Logger.makeRecord is record
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class TestOff:
    """Switched off, as a whole or in part."""

    def test_otel_sdk_disabled_adds_no_thread_no_layer_and_no_provider(
        self, monkeypatch: pytest.MonkeyPatch, own: list[Telemetry]
    ) -> None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        app = items(FastAPI())
        threads = threading.enumerate()
        own.append(setup_telemetry(app))
        assert "build_middleware_stack" not in app.__dict__
        assert new_threads(threads) == []
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        assert own[0].describe() == "telemetry: off, OTEL_SDK_DISABLED is true"
        with TestClient(app) as client:
            assert client.get("/api/items/1").json() == 1
            assert client.get("/metrics").status_code == 404
        assert own[0].spans() == ()

    def test_describe_lists_what_is_on_and_why_the_rest_is_off(
        self, own: list[Telemetry], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "otel_fastperf"):
            own.append(
                setup_telemetry(FastAPI(), settings=Settings(metrics={"enabled": False}, memory={"enabled": False}))
            )
        text = own[0].describe()
        assert "metrics: off, OTEL_FASTPERF_METRICS_ENABLED is false" in text
        assert "memory: off" in text
        assert "requests: on, own SERVER span" in text
        assert (
            len(
                [
                    record
                    for record in caplog.records
                    if record.name == "otel_fastperf" and "requests: on" in record.getMessage()
                ]
            )
            == 1
        )

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_page_that_another_package_serves_is_not_on(self, own: list[Telemetry], when: str) -> None:
        app = FastAPI()
        if when == "after":
            own.append(setup_telemetry(app))
        app.mount("/metrics", prometheus_client.make_asgi_app())
        if when == "before":
            own.append(setup_telemetry(app))
        lines = own[0].describe().splitlines()
        assert [line.partition(".")[0] for line in lines if line.startswith("metrics:")] == [
            "metrics: off, the app has its own route /metrics"
        ]
        assert "debug: on" in own[0].describe()


class TestMetricsEndpoint:
    """Where `/metrics` is served."""

    def test_it_is_neither_traced_nor_counted_nor_in_the_schema(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app) as server:
            assert [server.get("/metrics").status for _ in range(3)] == [200, 200, 200]
            assert "/metrics" not in server.get("/openapi.json").text
            assert names(own[0].spans()) == ["GET /openapi.json"]
            assert 'http_route="/metrics"' not in server.get("/metrics").text

    def test_a_catch_all_route_and_an_auth_middleware_do_not_hide_it(self, own: list[Telemetry]) -> None:
        app = FastAPI()

        @app.get("/{everything:path}")
        async def everything(everything: str) -> str:
            return everything

        @app.middleware("http")
        async def closed(_request: Any, _call_next: Any) -> Any:
            from fastapi.responses import PlainTextResponse

            return PlainTextResponse("no", 401)

        own.append(setup_telemetry(app))
        with serve(app) as server:
            assert server.get("/metrics").status == 200
            assert server.get("/anything").status == 401

    def test_the_app_s_own_route_takes_precedence_with_a_warning(
        self, own: list[Telemetry], caplog: pytest.LogCaptureFixture
    ) -> None:
        app = FastAPI()

        @app.get("/metrics")
        async def metrics() -> str:
            return "mine"

        own.append(setup_telemetry(app))
        with serve(app) as server:
            assert server.get("/metrics").text == '"mine"'
        assert "set OTEL_FASTPERF_METRICS_PATH to another path" in caplog.text

    def test_under_a_root_path_it_is_served(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app, root_path="/proxied") as server:
            assert server.get("/metrics").status == 200
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]

    def test_on_its_own_port(self, own: list[Telemetry]) -> None:
        from tests.serving import free_port

        port = free_port()
        app = items(FastAPI())
        own.append(setup_telemetry(app, settings=Settings(metrics={"port": port})))
        with serve(app) as server:
            server.get("/api/items/1")
            assert server.get("/metrics").status == 404
            server.port = port
            assert 'http_route="/api/items/{item_id}"' in server.get("/metrics").text

    def test_a_port_in_use_does_not_prevent_the_app_from_starting(
        self, own: list[Telemetry], caplog: pytest.LogCaptureFixture
    ) -> None:
        import socket

        app = items(FastAPI())
        with socket.create_server(("127.0.0.1", 0)) as taken:
            own.append(setup_telemetry(app, settings=Settings(metrics={"port": taken.getsockname()[1]})))
            with serve(app) as server:
                assert server.get("/api/items/1").status == 200
            assert "taken" in caplog.text or "in use" in caplog.text


class TestOtherInstrumentation:
    """A request has exactly one SERVER span beside any other instrumentation."""

    def test_fastapi_s_native_telemetry_is_off_for_this_app_by_default(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]
            assert len(own[0].spans()) == 1

    def test_a_mounted_fastapi_app_adds_no_span(self, own: list[Telemetry]) -> None:
        app = FastAPI()
        app.mount("/v1", items(FastAPI()))
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/v1/api/items/1")
            assert [span.name for span in own[0].spans()] == ["GET /v1/api/items/{item_id}"]

    def test_a_provider_given_to_fastapi_is_used(self, own: list[Telemetry]) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        try:
            app = items(FastAPI(telemetry={"tracer_provider": provider}))
            if native_config(app) is None:
                pytest.skip("this FastAPI has no telemetry of its own")
        except TypeError:
            pytest.skip("this FastAPI has no telemetry of its own")
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(exporter.get_finished_spans()) == [GET_ITEM]

    def test_the_user_s_global_provider_is_used(self, own: list[Telemetry]) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/api/items/1")
            assert [span.name for span in exporter.get_finished_spans()] == [GET_ITEM]
        own.pop().shutdown()
        assert trace.get_tracer_provider() is provider

    def test_native_telemetry_is_joined_if_the_setting_says_so(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        if native_config(app) is None:
            with pytest.raises(SetupError, match=r"FastAPI >= 0\.142"):
                setup_telemetry(app, settings=Settings(server_span="native"))
            return
        own.append(setup_telemetry(app, settings=Settings(server_span="native")))
        with serve(app) as server:
            server.get("/api/items/1")
            server.get("/metrics")
            wait_until(lambda: names(own[0].spans()), what="the span")
            assert names(own[0].spans()) == [GET_ITEM]
            span = next(span for span in own[0].spans() if span.kind is SpanKind.SERVER)
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.name == "fastapi"
            assert span.attributes is not None
            assert span.attributes["http.route"] == "/api/items/{item_id}"
            assert 'http_route="/api/items/{item_id}"' in server.get("/metrics").text

    @pytest.mark.parametrize("first", ["contrib", "ours"])
    def test_contrib_applied_before_or_after_is_joined(self, own: list[Telemetry], first: str) -> None:
        app = items(FastAPI())
        if first == "contrib":
            FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
        own.append(setup_telemetry(app))
        if first == "ours":
            FastAPIInstrumentor.instrument_app(app, exclude_spans=["send", "receive"])
        try:
            with serve(app) as server:
                server.get("/api/items/1")
                page = server.get("/metrics")
                (span,) = own[0].spans()
                assert (span.kind, span.name) == (SpanKind.SERVER, GET_ITEM)
                assert span.attributes is not None
                assert span.attributes["http.route"] == "/api/items/{item_id}"
                assert span.attributes["http.response.status_code"] == 200
                assert 'http_route="/api/items/{item_id}"' in page.text
        finally:
            FastAPIInstrumentor.uninstrument_app(app)

    def test_contrib_is_used_if_the_setting_says_so(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app, settings=Settings(server_span="contrib")))
        with serve(app) as server:
            server.get("/api/items/1")
            (span,) = own[0].spans()
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.name == "opentelemetry.instrumentation.fastapi"
            assert span.name == GET_ITEM

    def test_starlette_s_own_middleware_adds_no_span(self, own: list[Telemetry]) -> None:
        middleware = pytest.importorskip(
            "starlette.middleware.opentelemetry", reason="this Starlette has no OpenTelemetryMiddleware"
        )
        app = items(FastAPI())
        app.add_middleware(middleware.OpenTelemetryMiddleware)
        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/api/items/1")
            assert names(own[0].spans()) == [GET_ITEM]

    @pytest.mark.parametrize("command", [["opentelemetry-instrument"], []], ids=["agent", "auto-configured"])
    def test_one_server_span_reaches_the_collector(self, command: list[str], tmp_path: Any) -> None:
        from tests.otlp import Receiver

        module = tmp_path / "service.py"
        module.write_text(
            textwrap.dedent("""
            from fastapi import FastAPI
            from otel_fastperf import setup_telemetry
            app = FastAPI()
            setup_telemetry(app)
            @app.get("/items/{item_id}")
            async def item(item_id: int) -> int:
                return item_id
        """)
        )
        import os
        from pathlib import Path

        from tests.serving import _answers, free_port

        port = free_port()
        agent = [str(Path(sys.executable).parent / part) for part in command]
        with Receiver() as receiver:
            environment = {
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{tmp_path}",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none",
                # OpenTelemetry's own; ours is tested in tests/zero_code
                "OTEL_PYTHON_DISTRO": "distro",
                "OTEL_PYTHON_CONFIGURATOR": "configurator",
            }
            if not command:
                environment["FASTAPI_OTEL_AUTO_CONFIGURE"] = "true"
            process = subprocess.Popen(
                [*agent, sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                wait_until(lambda: _answers(port), seconds=120, what="uvicorn answers")
                import http.client

                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                for number in range(5):
                    connection.request("GET", f"/items/{number}")
                    connection.getresponse().read()
                connection.close()
                process.terminate()
                process.wait(20)
            finally:
                process.kill()
                process.communicate()
            server_spans = [span for span in receiver.spans if span.kind == "SERVER"]
            assert [span.name for span in server_spans] == ["GET /items/{item_id}"] * 5
            assert len({span.trace_id for span in server_spans}) == 5


class TestWithoutLifespan:
    """Apps whose lifespan never runs."""

    def test_monitors_can_start_before_the_first_request_continues(self, own: list[Telemetry]) -> None:
        app = FastAPI()

        @app.get("/")
        async def tasks() -> list[str]:
            return [task.get_name() for task in asyncio.all_tasks()]

        own.append(setup_telemetry(app, settings=Settings(loop={"start_after": 0})))
        for _ in range(2):  # each on a new loop
            assert "otel_fastperf-monitors" in TestClient(app).get("/").json()

    def test_monitors_start_with_the_first_request(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        with serve(app, lifespan="off") as server:
            server.get("/api/items/1")
            wait_until(
                lambda: (own[0].metrics.registry.get_sample_value("fastperf_event_loop_lag_seconds_count") or 0) > 0,
                what="the loop is watched",
            )

    def test_requests_of_a_test_client_are_observed(self, own: list[Telemetry]) -> None:
        app = items(FastAPI())
        own.append(setup_telemetry(app))
        client = TestClient(app)
        for _ in range(3):
            client.get("/api/items/1")
        assert names(own[0].spans()) == [GET_ITEM] * 3

    def test_a_lifespan_that_fails_at_start_undoes_the_set_up(self) -> None:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            raise RuntimeError("no database")
            yield

        app = FastAPI(lifespan=lifespan)
        telemetry = setup_telemetry(app)
        with pytest.raises(RuntimeError, match="no database"), TestClient(app):
            pass
        assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        telemetry.shutdown()

    def test_a_task_that_outlives_its_request_keeps_its_trace(self, own: list[Telemetry]) -> None:
        app = FastAPI()
        tasks: set[Any] = set()
        tracer = trace.get_tracer("app")

        @app.get("/fire")
        async def fire() -> None:
            async def later() -> None:
                await asyncio.sleep(0.1)
                tracer.start_span("late").end()

            tasks.add(asyncio.ensure_future(later()))

        own.append(setup_telemetry(app))
        with serve(app) as server:
            server.get("/fire")
            wait_until(lambda: len(own[0].spans()) == 2, what="the late span")
        request, late = own[0].spans()
        assert late.parent is not None
        assert late.parent.span_id == request.context.span_id
