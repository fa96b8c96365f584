"""The route template is complete, however a FastAPI app is composed."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Host, Mount, Route

from otel_fastperf.requests.route import route_template


class Recorder:
    """Middleware that sees each request right before the app's router, like the package's own layer."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self.inner = app.router.middleware_stack
        app.router.middleware_stack = self
        self.template: str | None = "nothing was routed"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        root_path = scope.get("root_path", "")
        try:
            await self.inner(scope, receive, send)
        finally:
            if scope["type"] != "lifespan":
                self.template = route_template(scope, root_path)

    def of(self, path: str, method: str = "GET", **options: object) -> str | None:
        TestClient(self.app, raise_server_exceptions=False, **options).request(method, path, follow_redirects=False)  # type: ignore[arg-type]
        return self.template


async def answer() -> str:
    return "ok"


async def plain(_request: object) -> PlainTextResponse:
    return PlainTextResponse("ok")


def shop() -> FastAPI:
    app = FastAPI()
    app.get("/ping")(answer)
    app.get("/files/{name:path}")(answer)
    items = APIRouter(prefix="/items")
    items.get("/{item_id}")(answer)
    items.post("/{item_id}/parts/{part}")(answer)
    orgs = APIRouter(prefix="/orgs/{org}")
    orgs.include_router(items)
    api = APIRouter()
    api.include_router(orgs, prefix="/v1")
    app.include_router(api, prefix="/api")
    app.add_route("/plain/{word}", plain)
    return app


def mounted() -> FastAPI:
    sub = FastAPI()
    sub.get("/things/{thing}")(answer)
    nested = APIRouter(prefix="/deep")
    nested.get("/{level}")(answer)
    sub.include_router(nested)
    starlette = Starlette(routes=[Route("/old/{year}", plain), Mount("/inner", routes=[Route("/leaf", plain)])])
    app = shop()
    app.mount("/sub", sub)
    app.mount("/tenants/{tenant}", sub)
    app.mount("/star", starlette)
    return app


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/ping", "/ping"),
        ("/files/a/b.txt", "/files/{name:path}"),
        ("/api/v1/orgs/7/items/8", "/api/v1/orgs/{org}/items/{item_id}"),
        ("/plain/x", "/plain/{word}"),
        ("/docs", "/docs"),
        ("/openapi.json", "/openapi.json"),
        ("/sub/things/1", "/sub/things/{thing}"),
        ("/sub/deep/2", "/sub/deep/{level}"),
        ("/sub/docs", "/sub/docs"),
        ("/tenants/acme/things/1", "/tenants/{tenant}/things/{thing}"),
        ("/tenants/things/things/things", "/tenants/{tenant}/things/{thing}"),
        ("/tenants/acme/deep/2", "/tenants/{tenant}/deep/{level}"),
        ("/star/old/1999", "/star/old/{year}"),
        ("/star/inner/leaf", "/star/inner/leaf"),
    ],
)
def test_a_served_path_has_its_complete_template(path: str, template: str) -> None:
    assert Recorder(mounted()).of(path) == template


def test_the_template_does_not_depend_on_the_method() -> None:
    assert (
        Recorder(shop()).of("/api/v1/orgs/7/items/8/parts/9", "POST")
        == "/api/v1/orgs/{org}/items/{item_id}/parts/{part}"
    )


@pytest.mark.parametrize(
    "path", ["/nothing", "/sub/nothing", "/tenants/acme/nothing", "/star/nothing", "/api/v1/orgs/7"]
)
def test_a_path_without_a_matching_route_has_no_template(path: str) -> None:
    assert Recorder(mounted()).of(path) is None


@pytest.mark.parametrize("path", ["/ping", "/api/v1/orgs/7/items/8", "/plain/x", "/sub/things/1"])
def test_a_method_that_the_route_does_not_allow_has_no_template(path: str) -> None:
    assert Recorder(mounted()).of(path, "DELETE") is None


def test_a_redirect_to_the_path_without_slash_has_no_template() -> None:
    assert Recorder(shop()).of("/ping/") is None


def test_a_root_path_of_the_proxy_is_not_part_of_the_template() -> None:
    recorder = Recorder(mounted())
    assert recorder.of("/api/v1/orgs/7/items/8", root_path="/proxy") == "/api/v1/orgs/{org}/items/{item_id}"
    assert recorder.of("/tenants/acme/things/1", root_path="/proxy") == "/tenants/{tenant}/things/{thing}"


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
def test_a_root_path_of_the_app_is_not_part_of_the_template() -> None:
    app = FastAPI(root_path="/proxy")
    app.get("/items/{item_id}")(answer)
    assert Recorder(app).of("/items/3") == "/items/{item_id}"


def test_mounted_files_have_one_template(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=tmp_path))
    recorder = Recorder(app)
    assert recorder.of("/static/a.txt") == "/static/{path}"
    assert recorder.of("/static/b.txt") == "/static/{path}"


def test_a_mount_inside_an_included_router_has_its_prefix() -> None:
    sub = FastAPI()
    sub.get("/things/{thing}")(answer)
    sub.add_route("/plain", plain)
    router = APIRouter()
    router.mount("/sub", sub)
    app = FastAPI()
    app.include_router(router)
    if TestClient(app).get("/sub/plain").status_code == 404:
        pytest.skip("this FastAPI leaves the mounts of an included router out")
    recorder = Recorder(app)
    assert recorder.of("/sub/things/1") == "/sub/things/{thing}"
    assert recorder.of("/sub/plain") == "/sub/plain"


def test_host_routing_keeps_the_template() -> None:
    app = Starlette(routes=[Host("{tenant}.example.org", Starlette(routes=[Route("/who/{name}", plain)]))])
    assert Recorder(app).of("/who/me", base_url="http://acme.example.org") == "/who/{name}"


def test_websocket_and_http_routes_of_one_path_are_distinguished() -> None:
    app = FastAPI()
    app.get("/live/{room}")(answer)

    @app.websocket("/live/{name}")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    recorder = Recorder(app)
    assert recorder.of("/live/3") == "/live/{room}"
    with TestClient(app).websocket_connect("/live/3"):
        pass
    assert recorder.template == "/live/{name}"
