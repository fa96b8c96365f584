"""Whatever the newest FastAPI and Starlette can route has the template that FastAPI's own telemetry gives it.

The differences are listed with their reasons.
"""

from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.instrumentation.other_telemetry import native_config

pytestmark = pytest.mark.skipif(
    native_config(FastAPI()) is None or not hasattr(FastAPI, "frontend"), reason="this FastAPI has no telemetry"
)

#: request -> the template
TEMPLATES: Final = {
    "GET /items/1": "/items/{item_id}",
    "GET /items/not-a-number": "/items/{item_id}",
    "GET /tenants/a/things/b": "/tenants/{tenant}/things/{thing}",
    "GET /tenants/a/inner/b/leaf": "/tenants/{tenant}/inner/{number}/leaf",
    "GET /plain/1": "/plain/{item}",
    "GET /class": "/class",
    "POST /class": "/class",
    "GET /raw": "/raw",
    "GET /static/a.txt": "/static/{path}",
    "GET /static/missing": "/static/{path}",
    "GET /asgi/t/anything": "/asgi/{tenant}/{path}",
    "GET /mounted/t/deep/1": "/mounted/{tenant}/deep/{item}",
    "GET /mounted/t/pages/a.txt": "/mounted/{tenant}/pages/{path}",
    "GET /a.txt": "/{path}",
    "GET /missing.css": "/{path}",
    "GET /admin": "/admin/{path}",
    "HEAD /admin/a.txt": "/admin/{path}",
    "GET /included/site/a.txt": "/included/site/{path}",
    "GET /openapi.json": "/openapi.json",
    "GET /docs": "/docs",
    "WS /rooms/1": "/rooms/{room}",
    "WS /nowhere": None,
    "GET http://api.example.com/hosted/1": "/hosted/{item}",
    "GET http://fastapi.example.com/hosted/1": "/hosted/{item}",
    "GET http://fastapi.example.com/nowhere": None,
    # an app without routes serves all paths of its host; FastAPI alone has no template for it
    "GET http://t.files.example.com/a.txt": "/{path}",
    "GET http://asgi.example.com/anything": "/{path}",
}

#: request -> FastAPI's template, ours
DIFFERENCES: Final = {
    # no route ran
    "POST /items/1": ("/items/{item_id}", None),
    "POST /admin/a.txt": ("/admin/{path}", None),
    "GET /items/1/": ("/items/{item_id}", None),
    "GET /mounted/t/nowhere": ("/mounted/{tenant}/{path}", None),
    # the template as it was written
    "GET /files/a/b": ("/files/{path}", "/files/{path:path}"),
    # FastAPI does not see the routes of other apps
    "GET /starlette/x/1": ("/starlette/{path}", "/starlette/x/{item}"),
    "GET /starlette/mounted/y": ("/starlette/{path}", "/starlette/mounted/y"),
    "GET /starlette/nowhere": ("/starlette/{path}", None),
}


async def plain(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("asgi")(scope, receive, send)


class Raw:
    """A `Route` takes any ASGI app."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asgi(scope, receive, send)


class Page(HTTPEndpoint):
    async def get(self, request: Request) -> PlainTextResponse:
        return await plain(request)


class CustomRoute(APIRoute):
    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def custom(request: Request) -> Any:
            return await handler(request)

        return custom


def hosted() -> FastAPI:
    app = FastAPI()
    app.get("/hosted/{item}")(echo("item"))
    return app


def echo(name: str) -> Any:
    """An endpoint with one path parameter of this name."""
    scope: dict[str, Any] = {}
    exec(f"async def endpoint({name}: str) -> str: return {name}", scope)
    return scope["endpoint"]


def everything(files: Path) -> FastAPI:
    (files / "a.txt").write_text("a")
    (files / "index.html").write_text("index")
    app = FastAPI()

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> int:
        return item_id

    @app.websocket("/rooms/{room}")
    async def room(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app.get("/files/{path:path}")(echo("path"))
    custom = APIRouter(prefix="/tenants/{tenant}", route_class=CustomRoute)
    custom.get("/things/{thing}")(echo("thing"))
    inner = APIRouter(prefix="/inner/{number}")
    inner.get("/leaf")(echo("number"))
    custom.include_router(inner)
    app.include_router(custom)
    site = APIRouter()
    site.frontend("/site", directory=files)
    app.include_router(site, prefix="/included")
    app.add_route("/plain/{item}", plain)
    app.add_route("/class", Page)  # type: ignore[arg-type]
    app.router.routes.append(Route("/raw", Raw()))
    app.mount("/static", StaticFiles(directory=files))
    app.mount("/asgi/{tenant}", asgi)
    mounted = FastAPI()
    mounted.get("/deep/{item}")(echo("item"))
    mounted.frontend("/pages", directory=files)
    app.mount("/mounted/{tenant}", mounted)
    routes = [Route("/x/{item}", plain), Mount("/mounted", routes=[Route("/y", plain)])]
    app.mount("/starlette", Starlette(routes=routes))
    app.host("api.example.com", Router([Route("/hosted/{item}", plain)]))
    app.host("fastapi.example.com", hosted())
    app.host("{tenant}.files.example.com", StaticFiles(directory=files))
    app.host("asgi.example.com", asgi)
    app.frontend("/admin", directory=files)
    app.frontend("/", directory=files, fallback=None)
    return app


def templates(files: Path, source: str) -> dict[str, Any]:
    """By request: `http.route`, which is in the span's name and in the metric too."""
    app, found = everything(files), {}
    with setup_telemetry(app, settings=Settings(server_span=source)) as telemetry:
        client = TestClient(app, follow_redirects=False)
        for request in (*TEMPLATES, *DIFFERENCES):
            before = len(telemetry.spans())
            method, _, path = request.partition(" ")
            if method == "WS":
                try:
                    with client.websocket_connect(path):
                        pass
                except WebSocketDisconnect:
                    pass
            else:
                client.request(method, path)
            (span,) = (each for each in telemetry.spans()[before:] if each.kind is SpanKind.SERVER)
            found[request] = (span.attributes or {}).get("http.route")
            if source == "own":
                assert span.name == f"{method} {found[request] or ''}".strip()
        labels = {
            sample.labels["http_route"]
            for family in telemetry.metrics.registry.collect()
            if family.name == "http_server_request_duration_seconds"
            for sample in family.samples
        }
        failures = {
            sample.labels["part"]
            for family in telemetry.metrics.registry.collect()
            if family.name == "fastperf_telemetry_errors"
            for sample in family.samples
        }
    assert failures == set()
    if source == "own":
        expected = {template for request, template in found.items() if not request.startswith("WS")}
        assert labels == {template or "unmatched" for template in expected}
    return found


@pytest.mark.parametrize("source", ["native", "own"])
def test_templates(tmp_path: Path, source: str) -> None:
    different = {request: each[source == "own"] for request, each in DIFFERENCES.items()}
    assert templates(tmp_path, source) == TEMPLATES | different


def test_a_host_of_starlette_s_own_apps(tmp_path: Path) -> None:
    """It leaves a route without a path in the scope."""
    (tmp_path / "a.txt").write_text("a")
    app = Starlette()
    app.host("files.example.com", StaticFiles(directory=tmp_path))
    app.host("api.example.com", Router([Route("/x/{item}", plain)]))
    with setup_telemetry(app) as telemetry:
        assert TestClient(app, base_url="http://files.example.com").get("/a.txt").status_code == 200
        assert TestClient(app, base_url="http://api.example.com").get("/x/1").status_code == 200
        assert [span.name for span in telemetry.spans() if span.kind is SpanKind.SERVER] == [
            "GET /{path}",
            "GET /x/{item}",
        ]
