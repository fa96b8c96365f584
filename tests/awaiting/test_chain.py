"""What slow requests of a real app are said to await, on asyncio and uvloop, and at which line."""

import asyncio
import gc
import hashlib
import http.client
import http.server
import linecache
import socket
import threading
import time
import urllib.request
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import anyio
import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from otel_fastperf import RequestView, Telemetry, setup_telemetry
from otel_fastperf.awaiting.chain import awaited_by
from otel_fastperf.awaiting.threads import Threads
from otel_fastperf.requests.awaits import Awaited
from otel_fastperf.requests.in_flight import InFlight
from otel_fastperf.settings import Settings
from tests.serving import Served, serve, wait_until

SLOW = 0.4


def _rounds(seconds: float) -> int:
    """Rounds of a hash that take that long on this machine: one with SHA instructions is several times as fast."""
    # by the processor's time: on a busy machine a moment of it can last long
    return int(20_000 * seconds / min(_hashing(20_000) for _ in range(5)))


def _hashing(rounds: int) -> float:
    began = time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", rounds)
    return time.thread_time() - began


ROUNDS = _rounds(SLOW)


class Stub(http.server.BaseHTTPRequestHandler):
    """Another service, which is slow."""

    def do_GET(self) -> None:
        time.sleep(SLOW)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def stub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def shop(url: str) -> FastAPI:  # noqa: C901, PLR0915 - a route is three lines
    """An app in which each route waits in another way."""
    engine = create_async_engine("sqlite+aiosqlite://")

    def database_naps() -> int:
        time.sleep(SLOW)
        return 1

    @event.listens_for(engine.sync_engine, "connect")
    def add_function(connection: Any, _record: object) -> None:
        connection.run_async(lambda raw: raw.create_function("nap", 0, database_naps))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient() as client:
            app.state.client = client
            app.state.lock = asyncio.Lock()
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    async def price() -> None:
        await app.state.client.get(url)

    def hash_password() -> bytes:
        return hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", ROUNDS)

    def nap() -> None:
        time.sleep(SLOW)

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(SLOW / 3)
            yield number

    async def session() -> AsyncIterator[int]:
        await asyncio.sleep(SLOW)
        yield 1

    def user() -> None:
        hash_password()

    async def own_group(*functions: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(function())  # type: ignore[arg-type]

    @app.get("/sleep")
    async def sleep() -> None:
        await asyncio.sleep(SLOW)

    @app.get("/http")
    async def http_client() -> None:
        await price()

    @app.get("/lock")
    async def lock() -> None:
        async with app.state.lock:
            await asyncio.sleep(SLOW)

    @app.get("/locked")
    async def locked() -> None:
        held = asyncio.Lock()
        await held.acquire()
        asyncio.get_running_loop().call_later(SLOW, held.release)
        async with held:
            pass

    @app.get("/event")
    async def wait_for_event() -> None:
        happened = asyncio.Event()
        asyncio.get_running_loop().call_later(SLOW, happened.set)
        await happened.wait()

    @app.get("/queue")
    async def queue() -> None:
        items: asyncio.Queue[int] = asyncio.Queue()
        asyncio.get_running_loop().call_later(SLOW, items.put_nowait, 1)
        await items.get()

    @app.get("/future")
    async def future() -> None:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(SLOW, done.set_result, 1)
        await done

    @app.get("/gather")
    async def gather() -> None:
        await asyncio.gather(price(), price())

    @app.get("/gather-of-library")
    async def gather_of_library() -> None:
        await asyncio.gather(*[app.state.client.get(url) for _ in range(2)])

    @app.get("/task-group")
    async def task_group() -> None:
        await own_group(price, price)

    @app.get("/anyio-task-group")
    async def anyio_task_group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(price)
            tasks.start_soon(price)

    @app.get("/task")
    async def task() -> None:
        await asyncio.create_task(price())

    @app.get("/timeout")
    async def timeout() -> None:
        async with asyncio.timeout(20):
            await price()

    @app.get("/wait-for")
    async def wait_for() -> None:
        await asyncio.wait_for(app.state.client.get(url), 20)

    @app.get("/wait")
    async def wait() -> None:
        await asyncio.wait([asyncio.create_task(price())])

    @app.get("/shield")
    async def shield() -> None:
        await asyncio.shield(price())

    @app.get("/to-thread")
    async def to_thread() -> None:
        await asyncio.to_thread(nap)

    @app.get("/executor")
    async def executor() -> None:
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, nap)

    @app.get("/run-in-threadpool")
    async def in_threadpool() -> None:
        await run_in_threadpool(hash_password)

    @app.get("/library-in-thread")
    async def library_in_thread() -> None:
        (await run_in_threadpool(urllib.request.urlopen, url)).close()

    @app.get("/c-in-thread")
    async def c_in_thread() -> None:
        await asyncio.to_thread(time.sleep, SLOW)

    @app.get("/c-in-threadpool")
    async def c_in_threadpool() -> None:
        await run_in_threadpool(time.sleep, SLOW)

    @app.get("/c-in-executor")
    async def c_in_executor() -> None:
        await asyncio.get_running_loop().run_in_executor(
            None, hashlib.pbkdf2_hmac, "sha256", b"secret", b"salt", ROUNDS
        )

    @app.get("/def")
    def computing() -> None:
        hash_password()

    @app.get("/def-python")
    def computing_in_python() -> int:
        total, ends = 0, time.monotonic() + SLOW
        while time.monotonic() < ends:
            for number in range(10_000):
                total += number
        return total

    @app.get("/def-dependency")
    async def def_dependency(_user: Annotated[None, Depends(user)]) -> None:
        pass

    @app.get("/dependency-with-yield")
    async def dependency_with_yield(_session: Annotated[int, Depends(session)]) -> None:
        pass

    @app.get("/async-generator")
    async def async_generator() -> list[int]:
        return [number async for number in numbers()]

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async for number in numbers():
                yield str(number)

        return StreamingResponse(lines())

    @app.get("/stream-in-thread")
    def stream_in_thread() -> StreamingResponse:
        def lines() -> Iterator[str]:
            for _ in range(3):
                time.sleep(SLOW / 3)
                yield "."

        return StreamingResponse(lines())

    @app.get("/sql")
    async def sql() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT nap()"))

    @app.get("/sql-in-greenlet")
    async def sql_in_greenlet() -> None:
        def run(connection: Any) -> None:
            Session(connection).execute(text("SELECT nap()"))

        connection: AsyncConnection
        async with engine.connect() as connection:
            await connection.run_sync(run)

    @app.get("/quick")
    async def quick() -> None:
        pass

    return app


#: by route: what it awaits, and the beginning of the line that does so. A library in a thread both computes and waits
EXPECTED: dict[str, tuple[str, str | tuple[str, ...]]] = {
    "/sleep": ("awaiting asyncio sleep", "await asyncio.sleep(SLOW)"),
    "/http": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/locked": ("awaiting asyncio Lock.acquire", "async with held:"),
    "/event": ("awaiting asyncio Event.wait", "await happened.wait()"),
    "/queue": ("awaiting asyncio Queue.get", "await items.get()"),
    "/future": ("awaiting asyncio Future", "await done"),
    "/gather": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/gather-of-library": ("awaiting httpx AsyncClient.get", "await asyncio.gather("),
    "/task-group": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/anyio-task-group": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/task": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/timeout": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/wait-for": ("awaiting httpx AsyncClient.get", "await asyncio.wait_for("),
    "/wait": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/shield": ("awaiting httpx AsyncClient.get", "await app.state.client.get(url)"),
    "/to-thread": ("awaiting time.sleep", "time.sleep(SLOW)"),
    "/run-in-threadpool": ("computing hashlib.pbkdf2_hmac", "return hashlib.pbkdf2_hmac("),
    "/library-in-thread": ("urllib urlopen", "(await run_in_threadpool("),
    "/c-in-thread": ("awaiting time.sleep", "await asyncio.to_thread(time.sleep, SLOW)"),
    "/c-in-threadpool": ("awaiting time.sleep", "await run_in_threadpool(time.sleep, SLOW)"),
    "/c-in-executor": ("computing hashlib.pbkdf2_hmac", "await asyncio.get_running_loop().run_in_executor("),
    "/def": ("computing hashlib.pbkdf2_hmac", "return hashlib.pbkdf2_hmac("),
    "/def-python": ("computing", ("while time.monotonic()", "for number in range(10_000):", "total += number")),
    "/def-dependency": ("computing hashlib.pbkdf2_hmac", "return hashlib.pbkdf2_hmac("),
    "/dependency-with-yield": ("awaiting asyncio sleep", "await asyncio.sleep(SLOW)"),
    "/async-generator": ("awaiting asyncio sleep", "await asyncio.sleep(SLOW / 3)"),
    "/stream": ("awaiting asyncio sleep", "await asyncio.sleep(SLOW / 3)"),
    "/stream-in-thread": ("awaiting time.sleep", "time.sleep(SLOW / 3)"),
    "/sql": ("awaiting sqlalchemy AsyncConnection.execute", "await connection.execute("),
    "/sql-in-greenlet": ("awaiting sqlalchemy Session.execute", "Session(connection).execute("),
}

Samples = dict[str, dict[Awaited, float]]


def samples_of(app: FastAPI, paths: list[str], **options: Any) -> Samples:
    """What the requests to `paths`, one after the other, are said to await, in seconds.

    A tick that took long, since it read a source file or collected garbage, is followed by a rest of up to 0.5 s, which
    may be all of a request. So a slow request without a sample is sent again.
    """
    found: Samples = {}
    seconds: dict[str, float] = {}

    def ended(request: RequestView) -> None:
        path = request.scope["path"]
        seconds[path], found[path] = request.seconds, dict(request.awaited)

    with setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as telemetry:
        telemetry.add_request_listener(ended)
        with serve(app, **options) as server:
            for path in paths:
                for _ in range(3):
                    found.pop(path, None)
                    answer(server, path)
                    wait_until(lambda path=path: path in found, what="the request has ended")
                    if found[path] or seconds[path] < SLOW / 2:
                        break
        assert telemetry.metrics.telemetry_errors.total() == 0
    for path, awaited in found.items():
        assert sum(awaited.values()) <= seconds[path] + 0.001, (path, seconds[path], awaited)
    return found


def answer(server: Served, path: str) -> None:
    assert server.get(path).status == 200


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def samples(request: pytest.FixtureRequest) -> Samples:
    """What the requests of the shop are said to await."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    with stub() as url:
        return samples_of(shop(url), [*EXPECTED, "/quick", "/executor"], loop=request.param)


@pytest.mark.parametrize("path", EXPECTED)
def test_the_awaited_function_and_the_line_are_named(samples: Samples, path: str) -> None:
    what, lines = EXPECTED[path]
    named = {awaited: seconds for awaited, seconds in samples[path].items() if _is_at(awaited, what, lines)}
    assert sum(named.values()) > 0.7 * sum(samples[path].values()), list(map(str, samples[path].items()))


def _is_at(awaited: Awaited, what: str, lines: str | tuple[str, ...]) -> bool:
    site = awaited.call_site
    return (
        what in {awaited.what, f"{awaited.library} {awaited.function}"}
        and site is not None
        and _source(site.file, site.line).startswith(lines)
    )


def _source(file: str, line: int) -> str:
    return linecache.getline(file, line).strip()


def test_samples_account_for_the_time_after_the_threshold(samples: Samples) -> None:
    """`samples_of` asserts that they never account for more."""
    for path in ("/sleep", "/http", "/gather", "/stream", "/def-python"):
        assert sum(samples[path].values()) > 0.5 * (SLOW - 0.1), path


def test_what_was_awaited_before_the_threshold_counts_if_it_still_is_at_the_first_look(samples: Samples) -> None:
    assert sum(samples["/sleep"].values()) > 0.9 * SLOW


def test_a_request_that_is_not_slow_is_not_sampled(samples: Samples) -> None:
    assert samples["/quick"] == {}


def test_a_coroutine_that_cython_compiled_is_a_library_s() -> None:
    """Uvloop's have a frame whose path is `uvloop/loop.pyx`, in no installed folder."""
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    app = FastAPI()

    @app.get("/socket")
    async def receive() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.call_later(SLOW, theirs.send, b".")
            await loop.sock_recv(ours, 1)

    found = samples_of(app, ["/socket"], loop="uvloop")["/socket"]
    (awaited,) = found
    assert awaited.what == "awaiting uvloop sock_recv"
    assert awaited.call_site is not None
    assert _source(awaited.call_site.file, awaited.call_site.line) == "await loop.sock_recv(ours, 1)"


async def _shielded(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


async def _gathered(task: asyncio.Task[None]) -> None:
    await asyncio.gather(task)


async def _waited(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


async def _awaited(task: asyncio.Task[None]) -> None:
    await task


async def _grouped(task: asyncio.Task[None]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_awaited(task))


@pytest.mark.parametrize("waits", [_shielded, _gathered, _waited, _awaited, _grouped])
def test_nothing_is_awaited_between_the_end_of_the_awaited_task_and_the_next_turn(waits: Any) -> None:
    """A task that has ended tells so in the loop's next round: what awaits it is not waiting for a future by itself."""

    async def main() -> None:
        happened = asyncio.Event()

        async def inner() -> None:
            await happened.wait()

        task = asyncio.ensure_future(inner())
        outer = asyncio.ensure_future(waits(task))
        await asyncio.sleep(0.01)
        found, _ = awaited_by(outer.get_coro(), Threads({}))
        assert [awaited.what for awaited in found] == ["awaiting asyncio Event.wait"]
        happened.set()
        while not task.done():
            await asyncio.sleep(0)
        assert not outer.done()
        while not outer.done():
            assert awaited_by(outer.get_coro(), Threads({}))[0] == ()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_parallel_tasks_share_the_time() -> None:
    """Two branches of a gather do not make the request twice as long."""
    app = FastAPI()

    @app.get("/both")
    async def both() -> None:
        await asyncio.gather(asyncio.sleep(SLOW), first())

    async def first() -> None:
        await asyncio.sleep(SLOW)

    found = samples_of(app, ["/both"])["/both"]
    assert len(found) == 2
    assert min(found.values()) > 0.3 * sum(found.values())


def test_code_inside_of_a_base_http_middleware_is_named_not_the_middleware() -> None:
    app = FastAPI()

    @app.middleware("http")
    async def outer(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    @app.middleware("http")
    async def middle(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    @app.get("/sleep")
    async def sleep() -> None:
        await asyncio.sleep(SLOW)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(SLOW / 3)
                yield "."

        return StreamingResponse(lines())

    found = samples_of(app, ["/sleep", "/stream"])
    assert {each.call_site.function for each in found["/sleep"] if each.call_site} == {"sleep"}
    assert {each.call_site.function for each in found["/stream"] if each.call_site} == {"lines"}


def test_a_middleware_that_waits_itself_is_named() -> None:
    app = FastAPI()

    @app.middleware("http")
    async def slow(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        await asyncio.sleep(SLOW)
        return await call_next(request)

    @app.get("/")
    async def quick() -> None:
        pass

    found = samples_of(app, ["/"])["/"]
    awaited = max(found, key=lambda each: found[each])
    assert awaited.what == "awaiting asyncio sleep"
    assert awaited.call_site is not None
    assert awaited.call_site.function == "slow"


def test_a_middleware_that_waits_once_it_has_the_response_is_named() -> None:
    """The task of the inner app has not ended by then: it waits until its response is taken."""
    app = FastAPI()

    @app.middleware("http")
    async def auditing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        await asyncio.sleep(SLOW)
        return response

    @app.get("/")
    async def quick() -> None:
        pass

    found = samples_of(app, ["/"])["/"]
    awaited = max(found, key=lambda each: found[each])
    assert awaited.what == "awaiting asyncio sleep"
    assert awaited.call_site is not None
    assert awaited.call_site.function == "auditing"


def test_no_line_is_named_if_no_code_of_the_application_waits() -> None:
    """FastAPI waits for the rest of the body, which the client sends late: no line of the app does."""
    app = FastAPI()

    @app.middleware("http")
    async def innocent(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    @app.post("/upload")
    async def upload(items: list[int]) -> int:
        return len(items)

    found: list[dict[Awaited, float]] = []
    with setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as telemetry:
        telemetry.add_request_listener(lambda request: found.append(dict(request.awaited)))
        with serve(app) as server:
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.putrequest("POST", "/upload")
            connection.putheader("content-type", "application/json")
            connection.putheader("content-length", "3")
            connection.endheaders()
            time.sleep(SLOW)
            connection.send(b"[1]")
            assert connection.getresponse().status == 200
            connection.close()
            wait_until(lambda: found, what="the request has ended")
    assert found[0]
    assert {awaited.call_site for awaited in found[0]} == {None}


def test_websockets_are_not_sampled() -> None:
    """They wait by nature."""
    app = FastAPI()

    @app.websocket("/ws")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    with (
        setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as telemetry,
        TestClient(app) as client,
        client.websocket_connect("/ws") as connection,
    ):
        assert not _in_flight(telemetry).records
        connection.send_text("over")
        assert connection.receive_text() == "over"


@pytest.mark.parametrize("path", ["/coroutine", "/thread"])
def test_looking_keeps_nothing_of_the_request_alive(path: str) -> None:
    """Reference counts free what the endpoint made, although its frames have been looked at."""
    app = FastAPI()
    made: list[weakref.ref[object]] = []

    class Large:
        """Stands for the rows that an endpoint has read."""

    @app.get("/coroutine")
    async def coroutine() -> None:
        large = Large()
        made.append(weakref.ref(large))
        await asyncio.gather(asyncio.sleep(SLOW))

    @app.get("/thread")
    def thread() -> None:
        large = Large()
        made.append(weakref.ref(large))
        time.sleep(SLOW)

    gc.disable()
    try:
        assert samples_of(app, [path])[path]
        assert [each() for each in made] == [None]
    finally:
        gc.enable()


def test_frames_of_a_trio_app_are_followed_too() -> None:
    """Under trio there are no asyncio tasks: the await chain begins at the coroutine, and a system task ticks."""
    trio = pytest.importorskip("trio", reason="trio is not installed: pip install trio")
    app = FastAPI()

    async def nap() -> None:
        await anyio.sleep(SLOW)

    @app.get("/nursery")
    async def nursery() -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(nap)

    @app.get("/def")
    def computing() -> None:
        hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", ROUNDS)

    @app.get("/thread")
    async def in_thread() -> None:
        await trio.to_thread.run_sync(time.sleep, SLOW)

    found: Samples = {}

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            for path in ("/nursery", "/def", "/thread"):
                await client.get(path)

    with setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as telemetry:
        telemetry.add_request_listener(lambda request: found.update({request.scope["path"]: dict(request.awaited)}))
        trio.run(main)
        assert telemetry.metrics.telemetry_errors.total() == 0
    most = {path: max(awaited, key=lambda each: awaited[each]) for path, awaited in found.items()}
    assert {path: each.what for path, each in most.items()} == {
        "/nursery": "awaiting anyio sleep",
        "/def": "computing hashlib.pbkdf2_hmac",
        "/thread": "awaiting time.sleep",
    }
    assert {path: each.call_site and each.call_site.function for path, each in most.items()} == {
        "/nursery": "nap",
        "/def": "computing",
        "/thread": "in_thread",
    }


def _in_flight(telemetry: Telemetry) -> InFlight:
    materials = telemetry._installation._materials
    assert materials is not None
    return materials.signals.in_flight


def test_nothing_ticks_while_no_request_is_in_flight() -> None:
    app = FastAPI()

    @app.get("/")
    async def sleep() -> None:
        await asyncio.sleep(0.2)

    with setup_telemetry(app, settings=Settings(traces={"exporter": "none"})) as telemetry:
        in_flight = _in_flight(telemetry)
        with serve(app) as server:
            assert not in_flight.awake
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: answer(server, "/"), range(4)))
            wait_until(lambda: not in_flight.awake, what="the ticks end")
            assert not in_flight.records
