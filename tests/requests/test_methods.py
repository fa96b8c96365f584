"""A route is a method and a template: methods of one path share no number and no finding."""

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from otel_fastperf import Telemetry, setup_telemetry
from otel_fastperf.findings import Kind
from otel_fastperf.settings import Settings

#: more than any block that a busy machine causes in a test of a few requests
BLOCKED = 0.4


@pytest.fixture
def telemetry(app: FastAPI) -> Iterator[Telemetry]:
    """What observes the app."""
    with setup_telemetry(app, settings=Settings(database={"n_plus_one_seconds": 0})) as telemetry:
        yield telemetry


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    """Recipes: one statement to list them, eleven to make one; the loop is blocked to remove one."""
    engine = create_engine(f"sqlite:///{tmp_path / 'recipes.db'}")
    app = FastAPI()

    @app.get("/recipes")
    def recipes() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    @app.post("/recipes")
    def new_recipe() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            for _ in range(10):
                connection.execute(text("SELECT 2"))

    @app.delete("/recipes")
    async def no_recipes() -> None:
        time.sleep(BLOCKED)

    async def anything(_request: Request) -> Response:
        return PlainTextResponse("anything")

    app.add_route("/anything", anything, methods=["GET", "PURGE"])

    @app.websocket("/recipes")
    async def recipe_news(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    yield app
    engine.dispose()


def test_each_method_has_its_own_numbers(app: FastAPI, telemetry: Telemetry) -> None:
    with TestClient(app) as client:
        for _ in range(2):
            client.get("/recipes")
            client.post("/recipes")
        routes = {(route.method, route.route): route for route in telemetry.diagnose().routes}
    get, post = routes["GET", "/recipes"], routes["POST", "/recipes"]
    assert (get.statements, post.statements) == (1.0, 11.0)
    for route in (get, post):
        assert sum(route.segments.values()) == pytest.approx(route.seconds)


def test_a_finding_is_told_of_its_method_only(app: FastAPI, telemetry: Telemetry) -> None:
    with TestClient(app) as client:
        client.get("/recipes")
        for _ in range(2):
            client.post("/recipes")
        report = telemetry.diagnose()
    (found,) = (each for each in report.findings if each.kind == Kind.N_PLUS_ONE)
    assert (found.method, found.route, found.where) == ("POST", "/recipes", "POST /recipes")
    said = {route.method: route.sentence for route in report.routes}
    assert "n_plus_one" in said["POST"]
    assert "n_plus_one" not in said["GET"]


def test_a_blocked_loop_is_counted_for_its_method(app: FastAPI, telemetry: Telemetry) -> None:
    with TestClient(app) as client:
        time.sleep(0.1)  # the watchdog meets the loop
        client.get("/recipes")
        client.delete("/recipes")
        page = list(telemetry.metrics.samples(lambda _error: None))
    blocked = {
        labels["http_request_method"]
        for name, labels, _ in page
        if name == "fastperf_event_loop_blocked_seconds_count" and labels["http_route"] == "/recipes"
    }
    assert blocked == {"DELETE"}


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("HEAD", "/anything", ("HEAD", "/anything")),
        # FastAPI's own routes serve the methods that they name, and no other
        ("HEAD", "/recipes", ("HEAD", "unmatched")),
        ("OPTIONS", "/recipes", ("OPTIONS", "unmatched")),
        ("PURGE", "/anything", ("_OTHER", "/anything")),
        ("POST", "/nothing", ("POST", "unmatched")),
    ],
)
def test_each_request_has_a_route(
    method: str, path: str, key: tuple[str, str], app: FastAPI, telemetry: Telemetry
) -> None:
    with TestClient(app) as client:
        client.request(method, path)
        (route,) = telemetry.diagnose().routes
    assert (route.method, route.route) == key
    assert sum(route.segments.values()) == pytest.approx(route.seconds)


def test_a_finding_of_an_unmatched_request_is_not_outside_of_routes(app: FastAPI, telemetry: Telemetry) -> None:
    @app.middleware("http")
    async def counting(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            for _ in range(12):
                connection.execute(text("SELECT 3"))
        engine.dispose()
        return response

    with TestClient(app) as client:
        for _ in range(2):
            client.get("/nothing")
        found = telemetry.findings()
    assert {each.where for each in found if each.kind == Kind.N_PLUS_ONE} == {"GET unmatched"}


def test_a_websocket_has_a_method_of_its_own(app: FastAPI, telemetry: Telemetry) -> None:
    with TestClient(app) as client, client.websocket_connect("/recipes"):
        pass
    page = list(telemetry.metrics.samples(lambda _error: None))
    (labels,) = (labels for name, labels, _ in page if name == "fastperf_websocket_connection_duration_seconds_count")
    assert (labels["http_request_method"], labels["http_route"]) == ("WS", "/recipes")
