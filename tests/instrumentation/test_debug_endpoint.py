"""The debug route: access control, answers, and no work on the event loop."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio.to_thread
import pytest
from fastapi import FastAPI
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.routing import Route

from otel_fastperf import Report, Settings, Telemetry, setup_telemetry
from otel_fastperf.errors import AllocationsError
from otel_fastperf.instrumentation.debug_endpoint import DebugEndpoint, is_from_this_machine
from otel_fastperf.internals.guard import Guard
from otel_fastperf.memory.allocations import AllocationReport, AllocationSite
from otel_fastperf.settings import DebugSettings
from tests.reports import SHOP
from tests.serving import Answer, Served, serve, wait_until

PATH: Final = "/debug/fastperf"
TOKEN: Final = "correct horse battery staple"


def endpoint(diagnose: Any = lambda: SHOP, failures: list[str] | None = None, **settings: Any) -> DebugEndpoint:
    guard = Guard((failures if failures is not None else []).append)
    return DebugEndpoint(DebugSettings(**settings), diagnose, guard)


@contextmanager
def served(**options: Any) -> Iterator[Served]:
    with serve(Starlette(routes=[Route(PATH, endpoint(**options))]), forwarded_allow_ips="*") as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(token=TOKEN) as server:
        yield server


# access from this machine


def scope(
    *headers: tuple[str, str],
    client: str | None = "127.0.0.1",
    host: str | None = "127.0.0.1:8000",
    version: str = "1.1",
) -> dict[str, Any]:
    every = [*headers, *([("host", host)] if host is not None else [])]
    return {
        "type": "http",
        "method": "GET",
        "http_version": version,
        "client": None if client is None else (client, 50000),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in every],
    }


BROWSER: Final = (
    ("user-agent", "Mozilla/5.0"),
    ("accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
    ("accept-encoding", "gzip"),
    ("cookie", "a=b"),
    ("sec-fetch-site", "none"),
    ("sec-fetch-mode", "navigate"),
    ("upgrade-insecure-requests", "1"),
)


@pytest.mark.parametrize(
    "given",
    [
        scope(),
        scope(client="127.8.9.10"),
        scope(client="::1", host="[::1]:8000"),
        scope(client="::ffff:127.0.0.1"),
        scope(host="localhost"),
        scope(host="LocalHost:65535"),
        scope(host="[::1]"),
        scope(*BROWSER),
        scope(("sec-fetch-site", "same-origin")),
        scope(version="2"),
    ],
)
def test_clients_on_this_machine_have_access(given: dict[str, Any]) -> None:
    assert is_from_this_machine(given)


@pytest.mark.parametrize(
    "client",
    [None, "", "10.0.0.1", "172.17.0.1", "::", "0.0.0.0", "::ffff:10.0.0.1", "fe80::1%eth0", "testclient", "localhost"],
)
def test_clients_on_other_machines_have_no_access(client: str | None) -> None:
    assert not is_from_this_machine(scope(client=client))


@pytest.mark.parametrize(
    "name",
    [
        "forwarded",
        "via",
        "x-forwarded-for",
        "X-Forwarded-For",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-client-ip",
        "x-envoy-attempt-count",
        "x-request-id",
        "x-amzn-trace-id",
        "cf-connecting-ip",
        "true-client-ip",
        "cdn-loop",
    ],
)
def test_requests_forwarded_by_a_proxy_have_no_access(name: str) -> None:
    assert not is_from_this_machine(scope((name, "127.0.0.1")))
    assert not is_from_this_machine(scope((name, "")))


def test_http_1_0_counts_as_forwarded_by_a_proxy() -> None:
    assert not is_from_this_machine(scope(version="1.0"))


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "shop.example.com",
        "evil.example.com:8000",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "localhost@evil.example.com",
        "evil.example.com/127.0.0.1",
        "127.0.0.1:8000:9",
        "127.0.0.1:port",
        "127.0.0.1 ",
        "127.0.0.1\n",
        "[::1",
        "::1",
        "0.0.0.0",
        "2130706433",
        "localhost, evil.example.com",
        "\xb2127.0.0.1",
    ],
)
def test_a_host_header_with_another_name_is_refused_against_dns_rebinding(host: str | None) -> None:
    assert not is_from_this_machine(scope(host=host))


def test_two_host_headers_are_refused() -> None:
    assert not is_from_this_machine(scope(("host", "evil.example.com")))
    assert not is_from_this_machine(scope(("host", "127.0.0.1:8000")))


@pytest.mark.parametrize(
    "sent",
    [
        ("origin", "https://evil.example.com"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:8000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", ""),
    ],
)
def test_requests_from_a_page_of_another_site_are_refused(sent: tuple[str, str]) -> None:
    assert not is_from_this_machine(scope(sent))


def test_a_server_that_trusts_all_forwarded_headers_does_not_open_the_route(server: Served) -> None:
    for name in ("x-forwarded-for", "forwarded", "x-forwarded-proto", "X-Real-IP", "Via"):
        answer = server.get(PATH, headers={name: "127.0.0.1"})
        assert answer.status == 404
        assert not reveals_anything(answer)
    assert server.get(PATH).status == 200


def test_a_server_answers_404_to_http_1_0_and_a_rebound_name(server: Served) -> None:
    old = b"GET /debug/fastperf HTTP/1.0\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    rebound = b"GET /debug/fastperf HTTP/1.1\r\nhost: evil.example.com\r\nconnection: close\r\n\r\n"
    for request in (old, rebound):
        assert server.raw(request).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
def test_a_refused_client_learns_nothing_by_any_method(server: Served, method: str) -> None:
    answer = server.get(f"{PATH}?allocations=1&format=html", method=method, headers={"via": "1.1 shop"})
    assert (answer.status, answer.headers["cache-control"]) == (404, "no-store")
    assert not reveals_anything(answer)


def reveals_anything(answer: Answer) -> bool:
    return b"fastperf" in answer.body or SHOP.service.encode() in answer.body


# access with a token


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_right_token_gives_access_even_through_a_proxy(guarded: Served, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {TOKEN}", "x-forwarded-for": "203.0.113.7", "host": "shop.example.com"}
    assert Report.from_json(guarded.get(PATH, headers=headers).text) == SHOP


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer caf\xe9"]
)
def test_clients_on_this_machine_need_the_token_too(guarded: Served, method: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = guarded.get(f"{PATH}?allocations=1", method=method, headers=headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    assert not reveals_anything(answer)


# answers


def test_get_answers_the_report_as_json_that_is_not_cached(server: Served) -> None:
    answer = server.get(PATH)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert Report.from_json(answer.text) == SHOP


def test_head_has_the_headers_of_get_and_no_body(server: Served) -> None:
    get, head = server.get(PATH), server.get(PATH, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    ("accept", "query", "kind"),
    [
        ("*/*", "", "application/json"),
        ("", "", "application/json"),
        ("application/json", "", "application/json"),
        ("text/html", "", "text/html; charset=utf-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "", "text/html; charset=utf-8"),
        ("TEXT/PLAIN;q=0.5", "", "text/plain; charset=utf-8"),
        ("application/json, text/html", "", "application/json"),
        ("text/html", "?format=json", "application/json"),
        ("application/json", "?format=text", "text/plain; charset=utf-8"),
        ("application/json", "?other=1&format=html", "text/html; charset=utf-8"),
        ("\xff;;=,,text/html;", "?format=", "text/html; charset=utf-8"),
    ],
)
def test_the_query_or_else_the_accept_header_chooses_the_format(
    server: Served, accept: str, query: str, kind: str
) -> None:
    answer = server.get(f"{PATH}{query}", headers={"accept": accept})
    assert (answer.status, answer.headers["content-type"]) == (200, kind)


@pytest.mark.parametrize("query", ["format=xml", "format=%00", "format=text&format=../etc", "format=%ff%fe"])
def test_an_unknown_format_is_refused(server: Served, query: str) -> None:
    assert server.get(f"{PATH}?{query}").status == 400


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_other_methods_get_405_with_the_allowed_ones(server: Served, method: str) -> None:
    answer = server.get(PATH, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_failing_report_is_counted_and_answered_with_500() -> None:
    def broken() -> Report:
        raise ValueError("secret")

    failures: list[str] = []
    with served(diagnose=broken, failures=failures) as server:
        answer = server.get(PATH)
    assert (answer.status, failures) == (500, ["debug"])
    assert b"secret" not in answer.body


# off the event loop


async def ask(asgi: DebugEndpoint, *, method: str = "GET", query: bytes = b"") -> tuple[int, bytes]:
    """Send one request directly to the ASGI application; return status and body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asgi({**scope(), "method": method, "query_string": query}, None, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.anyio
async def test_the_event_loop_keeps_running_while_the_report_is_made() -> None:
    entered, opened, threads = threading.Event(), threading.Event(), []

    def slow() -> Report:
        threads.append(threading.current_thread())
        entered.set()
        assert opened.wait(30)
        return SHOP

    asking = asyncio.create_task(ask(endpoint(slow)))
    async with asyncio.timeout(30):
        while not entered.is_set():
            await asyncio.sleep(0.001)
    assert not asking.done()
    opened.set()
    assert (await asking)[0] == 200
    assert threads != [threading.current_thread()]


@pytest.mark.anyio
async def test_the_report_needs_none_of_anyio_s_threads() -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    async with limiter, asyncio.timeout(20):
        assert (await ask(endpoint()))[0] == 200


@pytest.mark.anyio
async def test_the_answer_is_503_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    failures: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", start)
    assert (await ask(endpoint(failures=failures)))[0] == 503
    assert failures == ["debug"]


# allocations


def test_post_traces_allocations_for_the_given_seconds(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocations(seconds: float) -> AllocationReport:
        site = AllocationSite("/srv/shop/pages.py", 27, 2048, 3, application=True)
        return AllocationReport(seconds, (site,), 4096)

    monkeypatch.setattr("otel_fastperf.memory.allocations.allocations", allocations)
    answer = server.get(f"{PATH}?allocations=2.5", method="POST")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    site = {"file": "/srv/shop/pages.py", "line": 27, "size": 2048, "count": 3, "application": True}
    assert json.loads(answer.body) == {"seconds": 2.5, "size": 4096, "sites": [site]}


def test_only_one_request_can_trace_allocations_at_a_time(server: Served) -> None:
    answers: list[Answer] = []
    first = threading.Thread(target=lambda: answers.append(server.get(f"{PATH}?allocations=1", method="POST")))
    first.start()
    import tracemalloc

    wait_until(tracemalloc.is_tracing, what="allocations are traced")
    second = server.get(f"{PATH}?allocations=1", method="POST")
    first.join(60)
    assert second.status == 409
    assert "already" in second.text
    assert answers[0].status == 200
    assert json.loads(answers[0].body)["seconds"] >= 1


@pytest.mark.parametrize(
    "query", ["", "?", "?allocations=", "?allocations=0", "?allocations=0.9", "?allocations=60.1", "?allocations=-5",
              "?allocations=nan", "?allocations=inf", "?allocations=1e400", "?allocations=ten", "?seconds=5"]
)  # fmt: skip
def test_post_accepts_one_to_sixty_seconds_and_nothing_else(
    server: Served, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    def allocations(_seconds: float) -> AllocationReport:
        raise AllocationsError("called")

    monkeypatch.setattr("otel_fastperf.memory.allocations.allocations", allocations)
    assert server.get(f"{PATH}{query}", method="POST").status == 400


# in an app


@contextmanager
def shop(app: FastAPI | None = None, **debug: Any) -> Iterator[tuple[Served, Any]]:
    app = FastAPI() if app is None else app

    @app.get("/{anything:path}")
    async def everything(anything: str) -> str:
        return anything

    with setup_telemetry(app, settings=Settings(service_name="shop", debug=debug)) as telemetry, serve(app) as server:
        yield server, telemetry


def requests_of(telemetry: Telemetry) -> list[str]:
    """The names of the spans of requests. A busy machine adds spans of a blocked loop."""
    return [span.name for span in telemetry.spans() if span.kind is SpanKind.SERVER]


def test_the_route_is_neither_traced_nor_counted_nor_in_the_schema() -> None:
    with shop() as (server, telemetry):
        assert Report.from_json(server.get(PATH).text).service == "shop"
        assert requests_of(telemetry) == []
        assert PATH not in server.get("/openapi.json").text
        assert f'http_route="{PATH}"' not in server.get("/metrics").text
        assert server.get("/metrics").status == 200
        assert requests_of(telemetry) == ["GET /openapi.json"]


def test_the_app_s_own_route_takes_precedence_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.get(PATH)
    async def mine() -> str:
        return "mine"

    with shop(app) as (server, _telemetry):
        assert [server.get(PATH).text for _ in range(2)] == ['"mine"', '"mine"']
    assert caplog.text.count("set OTEL_FASTPERF_DEBUG_PATH to another path") == 1


def test_the_path_can_be_changed_and_the_route_disabled() -> None:
    with shop(path="/internal/why") as (server, telemetry):
        assert server.get("/internal/why").headers["content-type"] == "application/json"
        assert Report.from_json(server.get("/internal/why").text).service == "shop"
        assert server.get(PATH).text == '"debug/fastperf"'
        assert "debug: on, at /internal/why for this machine only" in telemetry.describe()
    with shop(enabled=False) as (server, telemetry):
        assert server.get(PATH).text == '"debug/fastperf"'
        assert "debug: off, OTEL_FASTPERF_DEBUG_ENABLED is false" in telemetry.describe()


def test_the_token_is_neither_described_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), shop(token=TOKEN) as (server, telemetry):
        assert server.get(PATH).status == 401
        assert server.get(PATH, headers={"authorization": f"Bearer {TOKEN}"}).status == 200
        assert "debug: on, at /debug/fastperf with bearer token" in telemetry.describe()
    assert TOKEN not in caplog.text


def test_the_route_is_served_under_a_root_path() -> None:
    app = FastAPI()
    with setup_telemetry(app), serve(app, root_path="/proxied") as server:
        assert server.get(PATH).status == 200


def test_fastapi_s_native_telemetry_does_not_trace_the_route_either() -> None:
    from otel_fastperf.instrumentation.other_telemetry import native_config

    app = FastAPI()
    if native_config(app) is None:
        pytest.skip("FastAPI < 0.142 has no telemetry of its own")
    settings = Settings(server_span="native")
    with setup_telemetry(app, settings=settings) as telemetry, serve(app) as server:
        assert server.get(PATH).status == 200
        assert telemetry.spans() == ()


def test_the_route_is_gone_after_shutdown() -> None:
    app = FastAPI()
    telemetry = setup_telemetry(app)
    with serve(app) as server:
        assert server.get(PATH).status == 200
        telemetry.shutdown()
        assert server.get(PATH).status == 404
