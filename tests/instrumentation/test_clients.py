"""Outgoing calls of real clients to a real service: their spans, their time, and what is found in them."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Protocol

import fakeredis
import httpx
import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import create_engine, text

import otel_fastperf
from otel_fastperf import Finding, Settings, Telemetry, setup_telemetry
from otel_fastperf.instrumentation.outgoing_calls import is_inside_sqlalchemy
from tests.partner import partner

Handler = Callable[[], Any]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with partner() as url:
        yield url


class Closable(Protocol):
    """A client, or what it sends its requests through."""

    async def aclose(self) -> None: ...


@contextmanager
def serving(handler: Handler, *kept: Closable, **settings: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    """An app with this endpoint. It closes the clients that it has `kept` when it ends, as long as its loop runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for each in kept:
            await each.aclose()

    app = FastAPI(lifespan=lifespan)
    app.get("/call")(handler)
    telemetry = setup_telemetry(app, settings=Settings(loop={"enabled": False}, **settings))
    with TestClient(app) as client:
        yield client, telemetry
    telemetry.shutdown()


def spans(telemetry: Telemetry, kind: SpanKind = SpanKind.CLIENT) -> list[ReadableSpan]:
    return [span for span in telemetry.spans() if span.kind is kind]


def value(client: TestClient, start: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(start)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def segments(span: ReadableSpan) -> dict[str, Any]:
    start = "fastperf.time."
    return {key.removeprefix(start): value for key, value in (span.attributes or {}).items() if key.startswith(start)}


def findings(telemetry: Telemetry) -> list[Finding]:
    kinds = ("n_plus_one", "slow_dependency", "serial_calls", "client_per_request")
    return [each for each in telemetry.findings() if each.kind in kinds]


def the_finding(service: TestClient, telemetry: Telemetry) -> Finding:
    """The only finding, which needs a few requests; one that a busy machine has disturbed does not count."""
    for _ in range(9):
        if not findings(telemetry):
            assert service.get("/call").is_success
    (finding,) = findings(telemetry)
    return finding


def test_a_call_has_a_span_under_its_request_and_carries_its_trace(url: str) -> None:
    @asynccontextmanager
    async def client() -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport()) as each:
            yield each

    async def call() -> dict[str, str]:
        async with client() as each:
            return dict((await each.get("/200/60/users/7?token=secret")).json())

    with serving(call) as (service, telemetry):
        headers = service.get("/call").json()
        (span,) = spans(telemetry)
        (server,) = spans(telemetry, SpanKind.SERVER)
        counted = value(service, "http_client_request_duration_seconds_count")
    assert span.parent == server.context
    assert span.context is not None
    assert headers["traceparent"].split("-")[1:3] == [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]
    attributes = dict(span.attributes or {})
    assert attributes["http.request.method"] == "GET"
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["url.full"] == f"{url}/200/60/users/7?token=REDACTED"
    assert segments(server)["http_client"] >= 0.03
    assert counted == 1


def test_calls_that_are_not_sampled_count_as_well(url: str) -> None:
    def call() -> int:
        return requests.get(f"{url}/503/30", timeout=10).status_code

    with serving(call, traces={"sampler": "always_off"}) as (service, telemetry):
        assert service.get("/call").json() == 503
        assert not telemetry.spans()
        (route,) = telemetry.diagnose().routes
        labels = 'error_type="503",http_request_method="GET",http_response_status_code="503",server_address="127.0.0.1"'
        counted = value(service, f"http_client_request_duration_seconds_count{{{labels}}}")
    assert route.segments["http_client"] >= 0.015
    assert counted == 1


def test_commands_of_a_cache_have_their_own_segment() -> None:
    cache = fakeredis.FakeRedis()

    def call() -> bool:
        return bool(cache.set("key", "value"))

    with serving(call) as (service, telemetry):
        assert service.get("/call").json() is True
        (span,) = spans(telemetry)
        (server,) = spans(telemetry, SpanKind.SERVER)
    cache.close()
    attributes = dict(span.attributes or {})
    assert attributes.get("db.system.name", attributes.get("db.system")) == "redis"  # the old name
    assert segments(server)["cache"] > 0


def test_a_span_that_the_application_makes_counts_by_its_attributes() -> None:
    async def call() -> None:
        tracer = trace.get_tracer("shop")
        attributes = {"rpc.system": "grpc", "rpc.service": "Stock", "rpc.method": "Get"}
        with tracer.start_as_current_span("Stock/Get", kind=SpanKind.CLIENT, attributes=attributes):
            await asyncio.sleep(0.03)
        with tracer.start_as_current_span("orders", kind=SpanKind.PRODUCER, attributes={"messaging.system": "kafka"}):
            await asyncio.sleep(0.02)

    with serving(call) as (service, telemetry):
        service.get("/call")
        (server,) = spans(telemetry, SpanKind.SERVER)
    # a busy machine takes from a wait: time without a processor is not the peer's
    assert segments(server)["rpc"] >= 0.015
    assert segments(server)["messaging"] >= 0.01


def test_a_call_inside_of_another_counts_once() -> None:
    """As the HTTP request that carries a call of a language model."""

    async def call() -> None:
        tracer = trace.get_tracer("shop")
        with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes={"gen_ai.system": "openai"}):
            for number in range(9):
                http = {"http.request.method": "GET", "url.full": f"http://api/{number}"}
                with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=http):
                    await asyncio.sleep(0.002)

    with serving(call) as (service, telemetry):
        service.get("/call")
        (server,) = spans(telemetry, SpanKind.SERVER)
        assert not findings(telemetry)
    assert segments(server)["http_client"] >= 0.009


def test_calls_of_another_librarys_provider_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of the `opentelemetry-instrument` agent."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def call() -> None:
        tracer = provider.get_tracer("shop")
        with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT) as span:
            span.set_attributes({"http.method": "GET", "http.url": "http://bank.example:8080/rates/7"})
            await asyncio.sleep(0.03)

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # can be set once only, and no more after this test
    app = FastAPI()
    app.get("/call")(call)
    with setup_telemetry(app, settings=Settings(loop={"enabled": False})) as telemetry, TestClient(app) as service:
        service.get("/call")
        (route,) = telemetry.diagnose().routes
        labels = 'error_type="",http_request_method="GET",http_response_status_code="",server_address="bank.example"'
        assert value(service, f"http_client_request_duration_seconds_count{{{labels}}}") == 1
    assert route.segments["http_client"] >= 0.015


class TracedCursor(sqlite3.Cursor):
    """A cursor that makes spans, like those of `opentelemetry-instrumentation-psycopg`."""

    def execute(self, *arguments: Any) -> Any:
        tracer = trace.get_tracer("opentelemetry.instrumentation.psycopg")
        attributes = {"db.system": "postgresql", "db.statement": "SELECT 1"}
        with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT, attributes=attributes):
            return super().execute(*arguments)


class TracedConnection(sqlite3.Connection):
    def cursor(self, *_: Any) -> Any:
        return super().cursor(TracedCursor)


def connected() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", factory=TracedConnection, check_same_thread=False)


def with_sqlalchemy() -> None:
    engine = create_engine("sqlite://", creator=connected)
    with engine.connect() as connection:
        for _ in range(9):
            connection.execute(text("SELECT 1"))
    engine.dispose()


def without_sqlalchemy() -> None:
    with closing(connected()) as connection:
        cursor = connection.cursor()
        for _ in range(9):
            cursor.execute("SELECT 1")


@pytest.mark.parametrize(("handler", "kinds"), [(with_sqlalchemy, []), (without_sqlalchemy, ["n_plus_one"])])
def test_a_driver_that_sqlalchemy_runs_is_not_seen_twice(handler: Handler, kinds: list[str]) -> None:
    settings = {"database": {"n_plus_one_seconds": 10.0}, "clients": {"n_plus_one_seconds": 0.0}}
    with serving(handler, **settings) as (service, telemetry):
        service.get("/call")
        assert [each.kind for each in findings(telemetry)] == kinds


def test_an_instrumentation_makes_no_span_of_a_statement_of_sqlalchemy() -> None:
    """Such a span would be a second one of the statement; outside of SQLAlchemy it is the only one."""
    made: list[bool] = []

    def looks() -> int:
        made.append(is_inside_sqlalchemy(sys._getframe()))
        return 1

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.create_function("looks", 0, looks)
    engine = create_engine("sqlite://", creator=lambda: connection)
    with engine.connect() as opened:
        opened.execute(text("SELECT looks()"))
    connection.execute("SELECT looks()")
    engine.dispose()
    assert made == [True, False]


def test_what_the_application_has_instrumented_is_left_alone(url: str) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    RequestsInstrumentor().instrument(tracer_provider=provider)
    try:
        with serving(lambda: requests.get(f"{url}/200/1", timeout=10).status_code) as (service, telemetry):
            service.get("/call")
            assert not spans(telemetry)
        assert len(exporter.get_finished_spans()) == 1
        assert RequestsInstrumentor().is_instrumented_by_opentelemetry
    finally:
        RequestsInstrumentor().uninstrument()


@pytest.mark.parametrize(
    ("clients", "on"),
    [
        ({}, True),
        ({"instrument": False}, False),
        ({"enabled": False}, False),
        ({"disabled": "httpx, redis"}, False),
        ({"disabled": "*"}, False),
        ({"disabled": "redis"}, True),
    ],
)
def test_the_settings_switch_instrumentations_off(clients: dict[str, Any], on: bool) -> None:
    with setup_telemetry(FastAPI(), settings=Settings(clients=clients)):
        assert HTTPXClientInstrumentor().is_instrumented_by_opentelemetry is on
    assert not HTTPXClientInstrumentor().is_instrumented_by_opentelemetry


def test_opentelemetrys_variable_switches_instrumentations_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "requests,httpx")
    with setup_telemetry(FastAPI()):
        assert not HTTPXClientInstrumentor().is_instrumented_by_opentelemetry


def test_an_instrumentation_is_on_while_one_of_several_apps_wants_it(url: str) -> None:
    def handler() -> int:
        return requests.get(f"{url}/200/1", timeout=10).status_code

    first, second = FastAPI(), FastAPI()
    second.get("/call")(handler)
    one = setup_telemetry(first)
    with setup_telemetry(second) as other, TestClient(second) as service:
        service.get("/call")
        assert len(spans(other)) == 1
        assert not spans(one)
        one.shutdown()
        service.get("/call")
        assert len(spans(other)) == 2
    assert not RequestsInstrumentor().is_instrumented_by_opentelemetry


def test_items_that_are_fetched_one_by_one_are_found_at_the_loop(url: str) -> None:
    session = requests.Session()

    def fetch(user: int) -> int:
        return session.get(f"{url}/200/2/users/{user}", timeout=10).status_code

    def handler() -> list[int]:
        return [fetch(user) for user in range(7)]  # the loop

    with serving(handler) as (service, telemetry):
        service.get("/call")
        (finding,) = findings(telemetry)
    session.close()
    assert finding.kind == "n_plus_one"
    assert finding.subject == f"GET {url.removeprefix('http://')}/{{}}/{{}}/users/{{}}"
    assert finding.evidence["repeats"] == 7
    assert finding.call_site is not None
    assert finding.call_site.function == "handler"
    assert str(finding.evidence["line"]).endswith(" in fetch")


def test_keys_that_are_read_one_by_one_are_found() -> None:
    cache = fakeredis.FakeAsyncRedis()

    async def handler() -> None:
        for number in range(20):
            await cache.get(f"user:{number}")

    with serving(handler, cache.connection_pool, clients={"n_plus_one_seconds": 0.0}) as (service, telemetry):
        service.get("/call")
        (finding,) = findings(telemetry)
    assert finding.kind == "n_plus_one"
    assert finding.subject == "redis GET"
    assert "MGET" in finding.remedy


async def parallel(client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.get(f"/200/2/users/{number}") for number in range(9)))


async def retries(client: httpx.AsyncClient) -> None:
    for _ in range(9):
        if (await client.get("/500/2/users/7")).is_success:
            return


async def pages(client: httpx.AsyncClient) -> None:
    for number in range(9):
        await client.get("/200/2/users", params={"page": number})


async def polls(client: httpx.AsyncClient) -> None:
    for _ in range(9):
        await client.get("/200/1/job/7")
        await asyncio.sleep(0.1)


async def different_lines(client: httpx.AsyncClient) -> None:
    async def get(path: str) -> None:
        await client.get(path)

    await get("/200/2/a/1")
    await get("/200/2/b/1")
    await get("/200/2/c/1")
    await get("/200/2/d/1")
    await get("/200/2/e/1")
    await get("/200/2/f/1")


@pytest.mark.parametrize("case", [parallel, retries, pages, polls, different_lines])
def test_other_repeats_are_no_finding(url: str, case: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    client = httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport())

    async def handler() -> None:
        await case(client)

    with serving(handler, client) as (service, telemetry):
        service.get("/call")
        assert not findings(telemetry)


def test_a_service_that_is_always_slow_is_found_and_one_that_was_slow_once_is_not(url: str) -> None:
    waits = chain([200, 1], repeat(200))
    client = httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport())

    async def handler() -> None:
        await client.get(f"/200/{next(waits)}/rates")  # slow

    with serving(handler, client, clients={"slow_dependency": 0.05}) as (service, telemetry):
        for _ in range(3):
            service.get("/call")
        assert not findings(telemetry)
        finding = the_finding(service, telemetry)
    assert finding.kind == "slow_dependency"
    assert finding.subject == url.removeprefix("http://")
    assert finding.evidence["share"] > 0.5  # type: ignore[operator]
    assert finding.call_site is not None
    assert finding.call_site.function == "handler"


@pytest.mark.parametrize("way", ["async", "sync"])
def test_a_body_that_comes_late_counts_and_names_the_line_that_reads_it(url: str, way: str) -> None:
    """As the answer of a language model, piece by piece."""
    client = httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport())
    sync_client = httpx.Client(base_url=url, transport=httpx.HTTPTransport())

    async def asynchronous() -> int:
        async with client.stream("GET", "/200/600/tokens?late") as answer:
            return sum([len(piece) async for piece in answer.aiter_bytes()])

    def synchronous() -> int:
        with sync_client.stream("GET", "/200/600/tokens?late") as answer:
            return sum([len(piece) for piece in answer.iter_bytes()])

    handler = asynchronous if way == "async" else synchronous
    with serving(handler, client, clients={"slow_dependency": 0.05}) as (service, telemetry):
        assert service.get("/call").json() > 1
        finding = the_finding(service, telemetry)
        server = spans(telemetry, SpanKind.SERVER)[0]
    sync_client.close()
    assert finding.kind == "slow_dependency"
    assert finding.call_site is not None
    assert finding.call_site.function == handler.__name__
    assert segments(server)["http_client"] >= 0.3


def test_independent_calls_one_after_the_other_are_found(url: str) -> None:
    client = httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport())

    async def load(what: str) -> Any:
        return (await client.get(f"/200/200/{what}")).json()

    async def handler() -> list[Any]:
        price = await load("price")
        stock = await load("stock")
        return [price, stock]

    with serving(handler, client, clients={"serial_calls": 0.05}) as (service, telemetry):
        finding = the_finding(service, telemetry)
    assert finding.kind == "serial_calls"
    assert finding.severity == "info"
    assert finding.seconds == pytest.approx(0.2, abs=0.15)
    assert finding.call_site is not None
    assert finding.call_site.function == "handler"
    assert "If they do not depend on each other" in finding.remedy
    assert "asyncio.gather()" in finding.remedy


def test_independent_calls_of_a_thread_are_told_to_use_several(url: str) -> None:
    session = requests.Session()

    def handler() -> list[int]:
        price = session.get(f"{url}/200/200/price", timeout=10).status_code
        stock = session.get(f"{url}/200/200/stock", timeout=10).status_code
        return [price, stock]

    with serving(handler, clients={"serial_calls": 0.05}) as (service, telemetry):
        finding = the_finding(service, telemetry)
    assert finding.kind == "serial_calls"
    assert "a ThreadPoolExecutor" in finding.remedy


def test_calls_that_need_each_other_are_no_finding(url: str) -> None:
    client = httpx.AsyncClient(base_url=url, transport=httpx.AsyncHTTPTransport())

    async def load(what: str) -> Any:
        return (await client.get(f"/200/200/{what}")).json()

    async def handler() -> Any:
        token = await load("token")
        return await load(f"stock/{len(token)}")

    with serving(handler, client, clients={"serial_calls": 0.05}) as (service, telemetry):
        for _ in range(4):
            service.get("/call")
        assert not findings(telemetry)


def test_a_client_that_each_request_makes_is_found(url: str) -> None:
    def handler() -> int:
        with requests.Session() as session:
            return session.get(f"{url}/200/1", timeout=10).status_code

    with serving(handler) as (service, telemetry):
        for _ in range(2):
            service.get("/call")
        assert not findings(telemetry)
        service.get("/call")
        (finding,) = findings(telemetry)
    assert finding.kind == "client_per_request"
    assert finding.subject == "requests.Session"
    assert finding.call_site is not None
    assert finding.call_site.function == "handler"


def test_an_engine_that_each_request_makes_is_found() -> None:
    def handler() -> int:
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            one = int(connection.execute(text("SELECT 1")).scalar_one())
        engine.dispose()
        return one

    with serving(handler) as (service, telemetry):
        for _ in range(3):
            service.get("/call")
        (finding,) = findings(telemetry)
    assert finding.kind == "client_per_request"
    assert finding.subject == "sqlalchemy.Engine"


def test_a_client_that_is_kept_or_shares_its_connections_is_no_finding(url: str) -> None:
    kept: list[requests.Session] = []
    transport = httpx.AsyncHTTPTransport()

    async def handler() -> int:
        if not kept:
            kept.append(requests.Session())
        client = httpx.AsyncClient(base_url=url, transport=transport)
        await client.get("/200/1")
        return await asyncio.to_thread(lambda: requests.get(f"{url}/200/1", timeout=10).status_code)

    with serving(handler, transport) as (service, telemetry):
        for _ in range(9):
            service.get("/call")
        assert not findings(telemetry)
    kept[0].close()


def test_a_library_that_the_application_uses_without_instrumentation_is_named(tmp_path: Path) -> None:
    """In a process of its own: in this one other tests may use the library too."""
    (tmp_path / "uses_grpc.py").write_text(
        "import httpx\nfrom grpc import insecure_channel\nchannel = insecure_channel\n"
    )
    (tmp_path / "look.py").write_text(
        "import sys, uses_grpc\n"
        "from otel_fastperf.instrumentation.clients import missing_instrumentations\n"
        "from otel_fastperf.settings import ClientsSettings\n"
        "print(missing_instrumentations(ClientsSettings()))\n"
        "print(missing_instrumentations(ClientsSettings(disabled=('grpc',))))\n"
        "del sys.modules['uses_grpc'], uses_grpc\n"
        "print(missing_instrumentations(ClientsSettings()))\n"
    )
    root = Path(otel_fastperf.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "look.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    with_it, left_off, without_it = done.stdout.splitlines()
    assert with_it == "{'grpc': 'opentelemetry-instrumentation-grpc'}"
    assert (left_off, without_it) == ("{}", "{}")
