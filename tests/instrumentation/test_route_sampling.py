"""Sampling by route: a fraction of traces for each template, and metrics of all requests."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from sqlalchemy import StaticPool, create_engine, text

from otel_fastperf import Settings, SettingsError, SetupError, Telemetry, setup_telemetry

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
tracer = trace.get_tracer("shop")


@pytest.fixture(scope="module", autouse=True)
def _connection_closed() -> Iterator[None]:
    yield
    engine.dispose()


SAMPLED = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
NOT_SAMPLED = {"traceparent": f"00-{1:032x}-{1:016x}-00"}


def shop() -> FastAPI:
    app = FastAPI()
    router = APIRouter(prefix="/api")

    @app.get("/health")
    @app.get("/pay")
    @app.post("/pay")
    @router.get("/orders/{order_id}")
    @router.get("/orders/{order_id}/lines")
    async def work() -> None:
        with tracer.start_as_current_span("own"), engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    app.include_router(router)
    return app


@contextmanager
def sampled(ratios: Any, app: FastAPI | None = None, **traces: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    app = app or shop()
    with (
        setup_telemetry(app, settings=Settings(traces={"route_ratios": ratios, **traces})) as telemetry,
        TestClient(app) as client,
    ):
        yield client, telemetry


def traced(telemetry: Telemetry) -> set[str]:
    return {span.name for span in telemetry.spans()}


def measured(telemetry: Telemetry) -> Counter[str]:
    """Requests by method and route."""
    families = {family.name: family for family in telemetry.metrics.registry.collect()}
    return Counter(
        {
            f"{sample.labels['http_request_method']} {sample.labels['http_route']}": int(sample.value)
            for sample in families["http_server_request_duration_seconds"].samples
            if sample.name.endswith("_count")
        }
    )


def test_each_route_is_sampled_at_its_own_ratio_and_every_request_is_measured() -> None:
    with sampled("/health=0,POST /pay=1", sampler="parentbased_traceidratio", sampler_arg=0) as (client, telemetry):
        for _ in range(3):
            client.get("/health")
            client.post("/pay")
            client.get("/pay")
        assert traced(telemetry) == {"POST /pay", "SELECT", "own"}
        assert measured(telemetry) == {"GET /health": 3, "POST /pay": 3, "GET /pay": 3}


def test_the_spans_inside_of_a_request_follow_its_server_span() -> None:
    with sampled({"/health": 0}) as (client, telemetry):
        client.get("/health")
        assert traced(telemetry) == set()


def test_a_fraction_of_the_traces_is_kept() -> None:
    with sampled({"/health": 0.5}) as (client, telemetry):
        for _ in range(200):
            client.get("/health")
        kept = sum(span.name == "GET /health" for span in telemetry.spans())
        # beyond this it would be by chance once in a billion runs
        assert 55 < kept < 145
        assert measured(telemetry) == {"GET /health": 200}


def test_a_template_fits_its_own_paths_and_the_first_that_fits_counts() -> None:
    ratios = {"/api/orders/special": 1, "/api/orders/{order_id}": 0}
    with sampled(ratios) as (client, telemetry):
        client.get("/api/orders/7")
        client.get("/api/orders/special")
        client.get("/api/orders/7/lines")
        found = [span.name for span in telemetry.spans() if span.name.startswith("GET")]
        assert found == ["GET /api/orders/{order_id}", "GET /api/orders/{order_id}/lines"]


def test_the_decision_of_a_caller_stands() -> None:
    with sampled({"/health": 0, "/pay": 1}) as (client, telemetry):
        client.get("/health", headers=SAMPLED)
        client.get("/pay", headers=NOT_SAMPLED)
        assert traced(telemetry) == {"GET /health", "SELECT", "own"}


def test_a_prefix_of_a_proxy_may_be_there_or_not() -> None:
    app = shop()
    with sampled({"/health": 0}, app) as (_, telemetry):
        with TestClient(app, root_path="/shop") as client:
            client.get("/shop/health")
            client.get("/health")
        assert traced(telemetry) == set()
        assert sum(measured(telemetry).values()) == 2


def test_a_websocket_is_sampled_too() -> None:
    with sampled({"/socket": 0}) as (client, telemetry):
        with client.websocket_connect("/socket"):
            pass
        assert traced(telemetry) == set()


@pytest.mark.parametrize(
    ("ratios", "rule"),
    [
        ("/health=2", "the ratio of '/health' must be a number from 0 to 1"),
        ("/health=often", "should be a valid number"),
        ("health=1", "'health' must be a path template that starts with /"),
        ("/a/{b=1", "'/a/{b' must be a path template that starts with /, such as /orders/{id}"),
        ("get /health=1", "after a method in capitals"),
        ("/a/{b:colour}=1", "'/a/{b:colour}' is not a path template (Unknown path convertor 'colour')"),
        ("/health", "must be key=value pairs separated by commas"),
    ],
)
def test_wrong_ratios_are_refused(ratios: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_FASTPERF_TRACES_ROUTE_RATIOS", ratios)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "OTEL_FASTPERF_TRACES_ROUTE_RATIOS='" in str(caught.value)
    assert rule in str(caught.value)
    assert "Remedy: write for example /health=0.01,POST /pay=1" in str(caught.value)


def test_a_sampler_that_does_not_follow_parents_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="needs a sampler that starts with parentbased_, and the sampler is always_on"
    ):
        Settings(traces={"sampler": "always_on", "route_ratios": {"/health": 0}})


def test_it_is_refused_where_another_library_makes_the_server_spans() -> None:
    app = shop()
    FastAPIInstrumentor.instrument_app(app)
    with pytest.raises(SetupError, match="Remedy: leave server_span at 'own'"), sampled({"/health": 0}, app):
        pass
    FastAPIInstrumentor.uninstrument_app(app)
