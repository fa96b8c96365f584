"""Each request has one correct SERVER span and one count, whatever the app or the client does."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from opentelemetry import baggage, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.middleware.base import BaseHTTPMiddleware
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from otel_fastperf.findings import Finding, Kind, Severity
from otel_fastperf.instrumentation.background import instrument_background
from otel_fastperf.instrumentation.exchanges import Requests
from otel_fastperf.instrumentation.layers import Layers, install_layers
from otel_fastperf.instrumentation.server_span import server_span_from
from otel_fastperf.instrumentation.spent_time import MOST_MARKS
from otel_fastperf.requests.record import CURRENT
from otel_fastperf.settings import RequestsSettings, Settings
from tests.conftest import Probe
from tests.serving import Answer, Served, serve, wait_until


@contextmanager
def observing(app: FastAPI, probe: Probe, **settings: Any) -> Iterator[None]:
    """Add the request layers to an app, without the rest of the package."""
    layers = Layers(app, Requests(RequestsSettings(**settings), probe.signals))
    with ExitStack() as stack:
        stack.enter_context(server_span_from("own", app, Settings(), trace.get_tracer_provider()))
        stack.enter_context(instrument_background(probe.signals))
        stack.enter_context(install_layers(app, layers))
        yield


Serve = Callable[..., Served]


@pytest.fixture
def served(probe: Probe) -> Iterator[Serve]:
    """`served(app, **settings)` runs the observed app under a real server."""
    with ExitStack() as stack:

        def start(app: FastAPI, *, server: dict[str, Any] | None = None, **settings: Any) -> Served:
            stack.enter_context(observing(app, probe, **settings))
            return stack.enter_context(serve(app, **(server or {})))

        yield start


def server_span(probe: Probe) -> ReadableSpan:
    """The only SERVER span; fails if there is not exactly one."""
    wait_until(lambda: [span for span in probe.spans() if span.kind is SpanKind.SERVER], what="a SERVER span")
    spans = [span for span in probe.spans() if span.kind is SpanKind.SERVER]
    assert len(spans) == 1, [span.name for span in spans]
    return spans[0]


def counted(probe: Probe, **labels: str) -> float | None:
    """The number of requests in the duration histogram with these labels."""
    every = {
        "http_request_method": "GET",
        "http_route": "unmatched",
        "http_response_status_code": "200",
        "error_type": "",
        "url_scheme": "http",
    }
    return probe.value("http_server_request_duration_seconds_count", **(every | labels))


def shop() -> FastAPI:
    """An app with routes that succeed, fail or never end."""
    app = FastAPI()
    app.get("/items/{item_id}")(item)
    app.get("/sync/{item_id}")(sync)
    app.post("/echo")(echo)
    app.get("/boom")(boom)
    app.get("/unavailable")(unavailable)
    app.get("/stream")(stream)
    app.get("/forever")(forever)
    app.get("/later")(later)
    return app


async def item(item_id: int) -> dict[str, int]:
    return {"item": item_id}


def sync(item_id: int) -> str:
    return format(trace.get_current_span().get_span_context().trace_id, "032x")


async def echo(request: Request) -> int:
    return len(await request.body())


async def boom() -> None:
    raise ValueError("no such luck")


async def unavailable() -> None:
    raise HTTPException(503)


async def stream(fail: bool = False) -> StreamingResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.01)
        if fail:
            raise OSError("disk gone")
        yield b"two"

    return StreamingResponse(chunks())


async def forever() -> StreamingResponse:
    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0.01)

    return StreamingResponse(ticks())


async def later(tasks: BackgroundTasks, fail: bool = False) -> str:
    async def send_mail() -> None:
        await asyncio.sleep(0.5)
        if fail:
            raise RuntimeError("mail server gone")

    tasks.add_task(send_mail)
    return "ok"


def test_a_request_has_one_server_span_with_the_stable_attributes(served: Serve, probe: Probe) -> None:
    server = served(shop())
    server.get("/items/7?q=secret&flag", headers={"User-Agent": "tester/1"})
    span = server_span(probe)
    assert span.name == "GET /items/{item_id}"
    assert span.status.status_code is StatusCode.UNSET
    attributes = {
        name: value for name, value in (span.attributes or {}).items() if not name.startswith("fastperf.time.")
    }
    assert attributes.pop("client.port") == attributes.pop("network.peer.port")
    assert attributes == {
        "http.request.method": "GET",
        "http.route": "/items/{item_id}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/items/7",
        "url.query": "q=REDACTED&REDACTED",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "user_agent.original": "tester/1",
    }
    assert counted(probe, http_route="/items/{item_id}") == 1
    assert probe.failures == []


def test_a_sync_endpoint_runs_under_the_request_s_span(served: Serve, probe: Probe) -> None:
    trace_id = served(shop()).get("/sync/1").text.strip('"')
    assert format(server_span(probe).context.trace_id, "032x") == trace_id


@pytest.mark.parametrize(
    ("method", "shown"), [("BREW", "_OTHER"), ("get", "_OTHER"), ("PATCH", "PATCH"), ("QUERY", "QUERY")]
)
def test_an_unknown_method_is_recorded_as_other(served: Serve, probe: Probe, method: str, shown: str) -> None:
    served(shop(), server={"http": "h11"}).get("/items/7", method=method)
    span = server_span(probe)
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == shown
    assert span.attributes.get("http.request.method_original") == (method if shown == "_OTHER" else None)
    assert span.name == ("HTTP" if shown == "_OTHER" else shown)
    assert counted(probe, http_request_method=shown, http_response_status_code="405") == 1


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/nothing", "GET", 404), ("/items/7", "DELETE", 405), ("/items/7/", "GET", 307)]
)
def test_a_request_without_a_matching_route_has_no_route(
    served: Serve, probe: Probe, path: str, method: str, status: int
) -> None:
    assert served(shop()).get(path, method=method).status == status
    span = server_span(probe)
    assert span.name == method
    assert "http.route" not in (span.attributes or {})
    assert span.status.status_code is StatusCode.UNSET
    assert counted(probe, http_request_method=method, http_response_status_code=str(status)) == 1


def test_a_failed_handler_is_an_error_with_the_exception(served: Serve, probe: Probe) -> None:
    assert served(shop()).get("/boom").status == 500
    span = server_span(probe)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 500
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "no such luck"
    assert counted(probe, http_route="/boom", http_response_status_code="500", error_type="ValueError") == 1


def test_a_5xx_response_of_the_app_is_an_error_with_its_status(served: Serve, probe: Probe) -> None:
    served(shop()).get("/unavailable")
    span = server_span(probe)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "503"
    assert counted(probe, http_route="/unavailable", http_response_status_code="503", error_type="503") == 1


def with_middleware(app: FastAPI) -> FastAPI:
    @app.middleware("http")
    async def through(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    return app


@pytest.mark.parametrize("app", [shop, lambda: with_middleware(shop())], ids=["plain", "behind @app.middleware"])
def test_a_response_that_fails_after_its_first_byte_is_an_error(
    app: Callable[[], FastAPI], served: Serve, probe: Probe
) -> None:
    server = served(app())
    server.raw(b"GET /stream?fail=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    span = server_span(probe)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "OSError"
    assert span.attributes["http.response.status_code"] == 200
    assert len(span.events) == 1
    assert counted(probe, http_route="/stream", error_type="OSError") == 1


@pytest.mark.parametrize("app", [shop, lambda: with_middleware(shop())], ids=["plain", "behind @app.middleware"])
def test_a_complete_stream_is_no_error(app: Callable[[], FastAPI], served: Serve, probe: Probe) -> None:
    assert served(app()).get("/stream").body == b"onetwo"
    span = server_span(probe)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    first_byte = span.attributes["fastperf.time_to_first_byte"]
    assert isinstance(first_byte, float)
    assert 0 < first_byte < 5
    assert probe.value("http_server_response_body_size_bytes_sum", http_request_method="GET", http_route="/stream") == 6


@pytest.mark.parametrize("app", [shop, lambda: with_middleware(shop())], ids=["plain", "behind @app.middleware"])
def test_a_client_that_disconnects_during_a_response_has_its_own_outcome(
    app: Callable[[], FastAPI], served: Serve, probe: Probe
) -> None:
    server = served(app())
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1000)
    span = server_span(probe)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ClientDisconnect"
    assert counted(probe, http_route="/forever", error_type="ClientDisconnect") == 1


async def patient(fail: bool = False, stream: bool = False) -> Any:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"late"

    await asyncio.sleep(0.6)
    if fail:
        raise ValueError("no such luck")
    return StreamingResponse(chunks()) if stream else "late"


async def asking(request: Request) -> str:
    for _ in range(40):  # behind @app.middleware it is not told
        if await request.is_disconnected():
            break
        await asyncio.sleep(0.02)
    return "late"


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("app", [shop, lambda: with_middleware(shop())], ids=["plain", "behind @app.middleware"])
@pytest.mark.parametrize("path", ["/patient", "/patient?stream=true", "/asking"])
def test_a_client_that_goes_away_before_the_answer_got_none(
    app: Callable[[], FastAPI], path: str, http: str, served: Serve, probe: Probe
) -> None:
    waiting = app()
    waiting.get("/patient")(patient)
    waiting.get("/asking")(asking)
    server = served(waiting, server={"http": http})
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(0.2)
    attributes = server_span(probe).attributes
    assert attributes is not None
    assert attributes["error.type"] == "ClientDisconnect"
    assert "http.response.status_code" not in attributes
    route = path.partition("?")[0]
    labels = {"http_route": route, "http_response_status_code": "", "error_type": "ClientDisconnect"}
    assert counted(probe, **labels) == 1


def test_a_failure_is_the_service_s_even_if_the_client_has_gone(served: Serve, probe: Probe) -> None:
    app = shop()
    app.get("/patient")(patient)
    server = served(app)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /patient?fail=true HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
    attributes = server_span(probe).attributes
    assert attributes is not None
    assert (attributes["error.type"], attributes["http.response.status_code"]) == ("ValueError", 500)


def test_a_client_that_closes_after_the_answer_got_it(served: Serve, probe: Probe) -> None:
    server = served(shop())
    for path in ("/items/1", "/stream"):
        server.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    wait_until(lambda: len(probe.spans()) == 2, what="both spans")
    assert counted(probe, http_route="/items/{item_id}") == counted(probe, http_route="/stream") == 1


def test_an_exception_that_middleware_turns_into_a_response_is_no_error(served: Serve, probe: Probe) -> None:
    app = shop()

    class Forgiving(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            try:
                return await call_next(request)
            except ValueError:
                return PlainTextResponse("never mind", 400)

    app.add_middleware(Forgiving)
    assert served(app).get("/boom").status == 400
    assert server_span(probe).status.status_code is StatusCode.UNSET
    assert counted(probe, http_route="/boom", http_response_status_code="400") == 1


def test_an_exception_is_recorded_even_with_a_500_handler_of_the_app(served: Serve, probe: Probe) -> None:
    app = shop()
    app.add_exception_handler(Exception, lambda _request, _error: JSONResponse({"sorry": True}, 500))
    assert served(app).get("/boom").text == '{"sorry":true}'
    assert server_span(probe).attributes["error.type"] == "ValueError"  # type: ignore[index]


def test_background_tasks_have_their_own_span_and_are_not_part_of_the_duration(served: Serve, probe: Probe) -> None:
    served(shop()).get("/later")
    wait_until(lambda: len(probe.spans()) == 2, what="the task's span")
    request, task = probe.spans()
    assert (request.kind, task.name) == (SpanKind.SERVER, "BackgroundTask send_mail")
    assert task.parent is not None
    assert task.parent.span_id == request.context.span_id
    duration = probe.value(
        "http_server_request_duration_seconds_sum",
        http_request_method="GET",
        http_route="/later",
        http_response_status_code="200",
        error_type="",
        url_scheme="http",
    )
    assert duration is not None
    assert duration < 0.4 < (task.end_time - task.start_time) / 1e9  # type: ignore[operator]


def test_a_failing_background_task_is_an_error_of_its_own_span(served: Serve, probe: Probe) -> None:
    assert served(shop()).get("/later?fail=true").status == 200
    wait_until(lambda: len(probe.spans()) == 2, what="the task's span")
    request, task = probe.spans()
    assert request.status.status_code is StatusCode.UNSET
    assert task.status.status_code is StatusCode.ERROR
    assert task.attributes is not None
    assert task.attributes["error.type"] == "RuntimeError"


def test_body_sizes_are_those_of_this_request(served: Serve, probe: Probe) -> None:
    server = served(shop())
    server.get("/echo", method="POST", body=b"x" * 1000)
    server.get("/echo", method="POST", body=b"")
    wait_until(lambda: len(probe.spans()) == 2, what="both spans")
    labels = {"http_request_method": "POST", "http_route": "/echo"}
    assert probe.value("http_server_request_body_size_bytes_sum", **labels) == 1000
    assert probe.value("http_server_response_body_size_bytes_sum", **labels) == len("1000") + len("0")


def test_a_file_that_the_server_reads_counts_with_its_length(probe: Probe, tmp_path: Path) -> None:
    """The extension `http.response.pathsend`, which granian has: the app sends the path alone."""
    app, file = FastAPI(), tmp_path / "file"

    class Sent(Response):
        """As a `FileResponse` of newer versions of Starlette."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"Content-Length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.pathsend", "path": str(file)})

    @app.get("/file")
    async def read() -> Response:
        return Sent()

    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/file",
        "query_string": b"",
        "headers": [],
    }
    with observing(app, probe):
        asyncio.run(app({**scope, "extensions": {"http.response.pathsend": {}}}, receive, send))
        assert sent == ["http.response.start", "http.response.pathsend"]
        labels = {"http_request_method": "GET", "http_route": "/file"}
        assert probe.value("http_server_response_body_size_bytes_sum", **labels) == 1000


def test_a_head_request_is_answered_with_no_bytes(served: Serve, probe: Probe) -> None:
    app = FastAPI()

    @app.api_route("/page", methods=["GET", "HEAD"])
    async def page() -> PlainTextResponse:
        return PlainTextResponse("x" * 1000)

    server = served(app)
    for method in ("HEAD", "GET"):
        server.get("/page", method=method)
    wait_until(lambda: len(probe.spans()) == 2, what="both spans")
    size, route = "http_server_response_body_size_bytes_sum", "/page"
    assert [probe.value(size, http_request_method=method, http_route=route) for method in ("HEAD", "GET")] == [0, 1000]


def test_active_requests_are_counted(served: Serve, probe: Probe) -> None:
    app = shop()
    hold = asyncio.Event()
    loops: list[Any] = []

    @app.get("/hold")
    async def held() -> str:
        loops.append(asyncio.get_running_loop())
        await hold.wait()
        return "ok"

    server = served(app)
    labels = {"http_request_method": "GET", "url_scheme": "http"}
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: loops, what="the handler runs")
        assert probe.value("http_server_active_requests", **labels) == 1
        loops[0].call_soon_threadsafe(hold.set)
        client.recv(1000)
    wait_until(lambda: probe.value("http_server_active_requests", **labels) == 0, what="back to none")


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    "header",
    [
        b"User-Agent: \xff\\",
        b"User-Agent: \xff\\x",
        b"traceparent: \xff\\",
        b"tracestate: \xff\\=",
        b"baggage: \xff\\=\xff",
        b"traceparent: 00-zz-zz-01",
        b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
        b"baggage: " + b"a=b," * 4000,
        b"Host: [::1",
        b"Host: a:99999999999",
        b"Host: \xff\xfe",
        b"X-Forwarded-For: \xff",
        b"Cookie: \xf0\x28\x8c\x28",
    ],
)
def test_no_header_changes_the_answer(served: Serve, probe: Probe, http: str, header: bytes) -> None:
    request = (
        b"GET /items/7 HTTP/1.1\r\n"
        + (b"" if header.startswith(b"Host") else b"Host: x\r\n")
        + header
        + b"\r\nConnection: close\r\n\r\n"
    )

    def answer(server: Served) -> list[bytes]:
        # the Date header may differ by a second
        return [line for line in server.raw(request).split(b"\r\n") if not line.lower().startswith(b"date:")]

    with serve(shop(), http=http) as bare:
        expected = answer(bare)
    assert answer(served(shop(), server={"http": http})) == expected
    assert probe.failures == []
    if expected[0].endswith(b"200 OK"):
        assert server_span(probe).attributes["http.response.status_code"] == 200  # type: ignore[index]


def test_the_trace_of_the_caller_is_joined(served: Serve, probe: Probe) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    served(shop()).get("/items/7", headers={"traceparent": parent})
    span = server_span(probe)
    assert format(span.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"


def test_two_traceparent_headers_count_as_none(served: Serve, probe: Probe) -> None:
    one = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    two = b"traceparent: 00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
    served(shop()).raw(b"GET /items/7 HTTP/1.1\r\nHost: x\r\n" + one + two + b"Connection: close\r\n\r\n")
    assert server_span(probe).parent is None


def test_without_trust_the_caller_s_trace_is_only_linked(served: Serve, probe: Probe) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    served(shop(), trust_incoming=False).get("/items/7", headers={"traceparent": parent})
    span = server_span(probe)
    assert span.parent is None
    assert [format(link.context.trace_id, "032x") for link in span.links] == ["0af7651916cd43dd8448eb211c80319c"]


def test_oversized_propagation_headers_are_counted_and_not_read(served: Serve, probe: Probe) -> None:
    served(shop()).get(
        "/items/7",
        headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "a=b," * 5000},
    )
    assert server_span(probe).parent is None
    assert probe.value("fastperf_telemetry_errors_total", part="propagation_budget") == 1


def test_a_failing_propagator_loses_the_parent_and_nothing_else(served: Serve, probe: Probe) -> None:
    class Broken(type(propagate.get_global_textmap())):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(propagate.get_global_textmap()._propagators)  # type: ignore[attr-defined]

        def extract(self, *_args: Any, **_kwargs: Any) -> Any:
            raise RuntimeError("broken propagator")

    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Broken())
    try:
        assert served(shop()).get("/items/7", headers={"traceparent": "00-x"}).status == 200
    finally:
        propagate.set_global_textmap(before)
    assert server_span(probe).parent is None
    assert probe.failures == ["propagator"]


def test_the_chosen_headers_are_captured_and_sanitised(served: Serve, probe: Probe) -> None:
    server = served(
        shop(),
        capture_request_headers=("x-tenant", "authorization"),
        capture_response_headers=("content-type",),
        sanitize_headers=("authorization",),
    )
    server.get("/items/7", headers={"X-Tenant": "acme", "Authorization": "Bearer abc"})
    attributes = dict(server_span(probe).attributes or {})
    assert attributes["http.request.header.x_tenant"] == ("acme",)
    assert attributes["http.request.header.authorization"] == ("[REDACTED]",)
    assert attributes["http.response.header.content_type"] == ("application/json",)


def test_an_excluded_url_has_no_span_not_even_of_its_children(served: Serve, probe: Probe) -> None:
    app = shop()
    tracer = probe.signals.tracer

    @app.get("/health")
    async def health() -> str:
        with tracer.start_as_current_span("inner"):
            return "ok"

    server = served(app, excluded_urls=("/health",))
    assert server.get("/health").text == '"ok"'
    server.get("/items/1")
    assert server_span(probe).name == "GET /items/{item_id}"
    assert len(probe.spans()) == 1
    assert counted(probe, http_route="/health") is None


def test_labels_are_bounded_whatever_clients_send(served: Serve, probe: Probe) -> None:
    server = served(shop(), server={"http": "h11"})
    for number in range(40):
        server.get(
            f"/nothing/{number}", method=f"M{number}", headers={"Host": f"h{number}", "User-Agent": f"u{number}"}
        )
    wait_until(lambda: len(probe.spans()) == 40, what="all spans")
    samples = [
        sample
        for metric in probe.signals.metrics.registry.collect()
        if metric.name == "http_server_request_duration_seconds"
        for sample in metric.samples
        if sample.name.endswith("_count")
    ]
    assert [
        (sample.labels["http_request_method"], sample.labels["http_route"], sample.value) for sample in samples
    ] == [("_OTHER", "unmatched", 40)]


def websocket_shop() -> FastAPI:
    app = shop()

    @app.websocket("/rooms/{room}")
    async def rooms(websocket: WebSocket, room: str) -> None:
        await websocket.accept()
        if room == "crash":
            raise ValueError("no room")
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    @app.websocket("/private")
    async def private(websocket: WebSocket) -> None:
        await websocket.close()

    return app


def test_a_websocket_connection_is_one_span_with_its_route(served: Serve, probe: Probe) -> None:
    server = served(websocket_shop())
    with connect(f"ws://127.0.0.1:{server.port}/rooms/red") as client:
        client.send("hello")
        assert client.recv() == "hello"
        assert probe.value("fastperf_websocket_active_connections") == 1
    span = server_span(probe)
    assert span.name == "WS /rooms/{room}"
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["fastperf.websocket.close_code"] == 1000
    assert probe.value("fastperf_websocket_active_connections") == 0
    labels = {"http_request_method": "WS", "http_route": "/rooms/{room}", "error_type": ""}
    assert probe.value("fastperf_websocket_connection_duration_seconds_count", **labels) == 1


def test_a_websocket_that_has_ended_is_examined(served: Serve, probe: Probe) -> None:
    examined = list[str]()

    def blocks(record: Any) -> Iterator[Finding]:
        examined.append(f"{record.method} {record.route} {record.seconds > 0}")
        yield Finding(
            kind=Kind.SYNC_DB_ON_LOOP,
            severity=Severity.WARNING,
            subject="SELECT",
            message="It blocks.",
            remedy="Await.",
        )

    probe.signals.findings.add_detector(blocks)
    server = served(websocket_shop())
    with connect(f"ws://127.0.0.1:{server.port}/rooms/red") as client:
        client.send("hello")
        assert client.recv() == "hello"
    span = server_span(probe)
    assert examined == ["WS /rooms/{room} True"]
    assert span.attributes is not None
    assert span.attributes["fastperf.findings"] == ("sync_db_on_loop",)
    assert [(finding.method, finding.route) for finding in probe.findings()] == [("WS", "/rooms/{room}")]


def test_a_failing_websocket_handler_is_an_error(served: Serve, probe: Probe) -> None:
    server = served(websocket_shop())
    with pytest.raises(Exception), connect(f"ws://127.0.0.1:{server.port}/rooms/crash") as client:  # noqa: B017 - the close error depends on the library
        client.recv()
    span = server_span(probe)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"
    assert len(span.events) == 1


def test_a_refused_websocket_has_the_response_status(served: Serve, probe: Probe) -> None:
    server = served(websocket_shop())
    with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{server.port}/private"):
        pass
    span = server_span(probe)
    assert span.attributes is not None
    assert span.attributes["http.response.status_code"] == 403
    assert span.status.status_code is StatusCode.UNSET


def test_a_middleware_that_copies_the_scope_does_not_hide_the_route(served: Serve, probe: Probe) -> None:
    app = shop()

    class Copying:
        def __init__(self, app: Any) -> None:
            self.inner = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.inner(dict(scope), receive, send)

    app.add_middleware(Copying)
    served(app).get("/items/7")
    assert server_span(probe).name == "GET /items/{item_id}"


def test_head_has_the_route_and_no_body(served: Serve, probe: Probe) -> None:
    app = shop()
    app.add_api_route("/both", lambda: "ok", methods=["GET", "HEAD"])
    answer: Answer = served(app).get("/both", method="HEAD")
    assert answer.body == b""
    assert server_span(probe).name == "HEAD /both"


def test_a_request_of_an_observed_app_mounted_in_another_is_counted_once(served: Serve, probe: Probe) -> None:
    outer, inner = FastAPI(), shop()
    outer.mount("/inner", inner)
    with observing(inner, probe):
        served(outer).get("/inner/items/7")
        assert server_span(probe).name == "GET /inner/items/{item_id}"


def test_a_request_cancelled_at_shutdown_is_an_error(probe: Probe) -> None:
    app = shop()

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    with observing(app, probe):
        with (
            serve(app, timeout_graceful_shutdown=1) as server,
            socket.create_connection(("127.0.0.1", server.port)) as client,
        ):
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(
                lambda: probe.value("http_server_active_requests", http_request_method="GET", url_scheme="http") == 1,
                what="it runs",
            )
        span = server_span(probe)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_a_long_stream_keeps_little_and_its_segments_add_up(probe: Probe, served: Serve) -> None:
    """The budget of a stream is summed up while it runs, as for answers of language models that take minutes."""
    app = FastAPI()
    kept: list[int] = []

    @app.get("/stream")
    def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3000):
                if not number % 100:
                    await asyncio.sleep(0.001)
                record = CURRENT.get()
                assert record is not None
                kept.append(len(record.phases) + len(record.intervals))
                yield b"chunk"

        return StreamingResponse(chunks())

    server = served(app)
    assert len(server.get("/stream").body) == 15_000
    span = server_span(probe)
    assert max(kept) <= MOST_MARKS // 2
    attributes: Any = span.attributes
    segments = {key: value for key, value in attributes.items() if key.startswith("fastperf.time.")}
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    assert sum(segments.values()) == pytest.approx(seconds, rel=0.01)
    assert {"fastperf.time.handler", "fastperf.time.send"} <= segments.keys()


def test_what_a_client_chooses_is_cut(probe: Probe, served: Serve) -> None:
    """One client with long headers must not fill the queue of spans."""
    app = FastAPI()
    app.get("/{path:path}")(lambda path: {"length": len(path)})
    server = served(app, attribute_length=64, capture_request_headers=("x-long",))
    long = "a" * 4000
    server.get(f"/{long}?{long}=1", headers={"user-agent": long, "x-long": long})
    attributes: Any = server_span(probe).attributes
    assert [len(attributes[key]) for key in ("url.path", "url.query", "user_agent.original")] == [64, 64, 64]
    assert [len(value) for value in attributes["http.request.header.x_long"]] == [64]


@pytest.mark.parametrize("trust", [True, False])
def test_baggage_of_a_trusted_caller_is_in_the_handler(served: Serve, *, trust: bool) -> None:
    app = FastAPI()
    app.get("/")(lambda: {"tenant": baggage.get_baggage("tenant")})
    headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "baggage": "tenant=acme"}
    answer = served(app, trust_incoming=trust).get("/", headers=headers)
    assert answer.text == ('{"tenant":"acme"}' if trust else '{"tenant":null}')
