"""The answer to a scrape under a real server: headers, tokens, and no work on the event loop."""

import asyncio
import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import anyio.to_thread
import pytest
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from starlette.applications import Starlette
from starlette.routing import Route

from otel_fastperf.exposition import Exposition
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from tests.filled import filled
from tests.serving import Answer, Served, serve
from tests.threads import new_threads

PROMETHEUS_2: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
TOKEN: Final = "correct horse battery staple"


def exposition(failures: list[str] | None = None, **settings: Any) -> Exposition:
    guard = Guard((failures if failures is not None else []).append)
    return Exposition(filled(Metrics()), MetricsSettings(**settings), guard)


@contextmanager
def served(**settings: Any) -> Iterator[Served]:
    with serve(Starlette(routes=[Route("/metrics", exposition(**settings))])) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


# headers


def test_a_scrape_without_accept_header_gets_text(server: Served) -> None:
    answer = server.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nfastperf_spans_queued 1.0\n" in answer.text


def test_a_scrape_by_prometheus_gets_openmetrics(server: Served) -> None:
    answer = server.get("/metrics", headers={"accept": PROMETHEUS_2})
    assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    families = parse_openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert "fastperf_spans_queued" in {family.name for family in families}


def test_gzip_is_used_if_the_scraper_accepts_it(server: Served) -> None:
    plain = server.get("/metrics", headers={"accept-encoding": "gzip;q=0"})
    zipped = server.get("/metrics", headers={"accept-encoding": "deflate, gzip"})
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert len(zipped.body) < len(plain.body) / 4
    assert b"\nfastperf_spans_queued 1.0\n" in gzip.decompress(zipped.body)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_page_is_not_cached_and_has_its_length(server: Served, encoding: str) -> None:
    answer = server.get("/metrics", headers={"accept-encoding": encoding})
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(answer.body)


def test_head_has_the_headers_of_get_and_no_body(server: Served) -> None:
    get, head = server.get("/metrics"), server.get("/metrics", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert set(head.headers) == set(get.headers)
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) > 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_other_methods_get_405_with_the_allowed_ones(server: Served, method: str) -> None:
    answer = server.get("/metrics", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "lines",
    [
        b"accept: \xff\xfe\x00\xe9".replace(b"\x00", b""),
        b"accept: application/openmetrics-text; version=abc",
        b"accept: application/openmetrics-text; version=1.0.0; q=\xb2",
        b"accept: application/openmetrics-text\r\naccept: text/plain\r\naccept: ;;;",
        b"accept: " + b"a/b;q=0.1," * 5000,
        b"accept: application/openmetrics-text; version=" + b"9" * 20000,
        b"accept: \xed\xa0\x80",
        b"accept-encoding: \xff;q=\xff\r\naccept-encoding: ,,,",
    ],
)
def test_any_accept_header_gives_a_page(server: Served, lines: bytes) -> None:
    answer = server.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + lines + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\nfastperf_spans_queued 1.0\n" in answer


def test_several_accept_headers_are_one_list(server: Served) -> None:
    request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: text/html\r\n"
    answer = server.raw(request + b"accept: application/openmetrics-text\r\n\r\n")
    assert answer.endswith(b"# EOF\n")


# tokens


@pytest.fixture(scope="module")
def guarded() -> Iterator[Served]:
    with served(bearer_token=TOKEN) as server:
        yield server


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_gives_access_to_the_page(guarded: Served, scheme: str) -> None:
    assert guarded.get("/metrics", headers={"authorization": f"{scheme}  {TOKEN} "}).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer caf\xe9",
    ],
)
def test_without_the_right_token_the_answer_is_401(guarded: Served, method: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = guarded.get("/metrics", method=method, headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["cache-control"] == "no-store"
    assert b"fastperf" not in answer.body
    assert TOKEN not in str(answer.headers) + answer.text


def test_a_token_may_contain_any_character() -> None:
    with served(bearer_token="käse-für-alle") as server:
        header = "authorization: Bearer käse-für-alle".encode()
        answer = server.raw(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + header + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


# off the event loop


class Gate:
    """A collector of the app that waits until the test opens it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.threads: list[threading.Thread] = []
        self.calls = 0
        self.inside = 0
        self.most_inside = 0

    def describe(self) -> list[Metric]:
        """Return nothing; otherwise the registry would collect at once."""
        return []

    def collect(self) -> list[Metric]:
        self.calls += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.opened.wait(30)
        self.inside -= 1
        return [GaugeMetricFamily("shop_gate", "Gate.", value=self.calls)]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    REGISTRY.register(gate)
    yield gate
    gate.opened.set()
    REGISTRY.unregister(gate)


async def scrape(exposition: Exposition, accept: str = "") -> bytes:
    """Send one request directly to the ASGI application; return the body."""
    bodies: list[bytes] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    await exposition({"type": "http", "method": "GET", "headers": [(b"accept", accept.encode())]}, receive, send)
    return b"".join(bodies)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_the_event_loop_keeps_running_while_a_page_is_rendered(gate: Gate) -> None:
    scraping = asyncio.create_task(scrape(exposition()))
    await until(gate.entered.is_set)  # the loop gets here, although the page is not ready
    assert not scraping.done()
    gate.opened.set()
    assert b"\nshop_gate 1.0\n" in await scraping
    assert gate.threads != [threading.current_thread()]


@pytest.mark.anyio
async def test_rendering_needs_no_thread_of_anyio_or_of_the_loop() -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    loop.run_in_executor(None, release.wait, 30)
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    async with limiter, asyncio.timeout(20):
        assert b"fastperf_spans_queued" in await scrape(exposition())
    release.set()
    await loop.shutdown_default_executor()


@pytest.mark.anyio
async def test_concurrent_scrapes_of_one_page_share_it(gate: Gate) -> None:
    page = exposition()
    scraping = [asyncio.create_task(scrape(page)) for _ in range(5)]
    await until(gate.entered.is_set)
    gate.opened.set()
    assert len({await each for each in scraping}) == 1
    assert gate.calls == 1
    assert b"\nshop_gate 2.0\n" in await scrape(page)


@pytest.mark.anyio
async def test_a_cancelled_scrape_does_not_affect_the_others(gate: Gate) -> None:
    page = exposition()
    first, second = asyncio.create_task(scrape(page)), asyncio.create_task(scrape(page))
    await until(gate.entered.is_set)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.opened.set()
    assert b"\nshop_gate 1.0\n" in await second


@pytest.mark.anyio
async def test_different_pages_are_rendered_one_at_a_time(gate: Gate) -> None:
    page = exposition()
    scraping = [asyncio.create_task(scrape(page, accept)) for accept in ("", "application/openmetrics-text")]
    await until(gate.entered.is_set)
    gate.opened.set()
    text, openmetrics = await asyncio.gather(*scraping)
    assert openmetrics.endswith(b"# EOF\n")
    assert not text.endswith(b"# EOF\n")
    assert (gate.calls, gate.most_inside) == (2, 1)


@pytest.mark.anyio
async def test_close_waits_for_the_page_being_rendered(gate: Gate) -> None:
    page = exposition()
    scraping = asyncio.create_task(scrape(page))
    await until(gate.entered.is_set)
    closing: Future[None] = Future()
    threading.Thread(target=lambda: closing.set_result(page.close())).start()  # type: ignore[func-returns-value]
    assert not closing.done()
    gate.opened.set()
    closing.result(30)
    assert page._pending == {}
    await scraping


def no_more_threads(_thread: threading.Thread) -> None:
    message = "can't start new thread"
    raise RuntimeError(message)


@pytest.mark.anyio
async def test_a_failure_to_start_a_thread_is_answered_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    page = exposition(failures)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        assert b"No thread" in await scrape(page)
    assert failures == ["exposition"]
    assert b"fastperf_spans_queued" in await scrape(page)


class Siblings:
    """A worker whose siblings ask nothing by themselves."""

    is_alone = False

    def __init__(self) -> None:
        self.topics: dict[str, Callable[[str], bytes]] = {}

    def join(self) -> bool:
        return False


@pytest.mark.anyio
async def test_a_failure_to_start_a_thread_leaves_the_page_that_a_sibling_waits_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings: Any = Siblings()
    page = Exposition(filled(Metrics()), MetricsSettings(), Guard(print), siblings)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(siblings.topics["page"], '[false, "", false]')
        await until(gate.entered.is_set)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            assert b"No thread" in await scrape(page)
        gate.opened.set()
        assert b"fastperf_spans_queued" in await asyncio.wrap_future(asked)
    assert b"fastperf_spans_queued" in await scrape(page)


def test_the_blocking_call_gives_the_same_page(server: Served) -> None:
    page = exposition().page(accept=PROMETHEUS_2, accept_encoding="", authorization="")
    answer: Answer = server.get("/metrics", headers={"accept": PROMETHEUS_2})
    headers = {name.decode(): value.decode() for name, value in page.headers}
    assert page.status == answer.status
    assert headers.keys() <= {name.lower() for name in answer.headers}
    assert headers["content-type"] == answer.headers["content-type"]


def test_no_thread_runs_between_scrapes() -> None:
    page, before = exposition(), threading.enumerate()
    for _ in range(3):
        page.page(accept="", accept_encoding="", authorization="")
    page.close()
    assert new_threads(before) == []
