"""Running and awaiting are different segments, and a coroutine that is driven behaves as one that is awaited."""

import asyncio
import gc
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from types import coroutine
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import INVALID_SPAN, SpanKind
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.instrumentation.spent_time import MOST_MARKS
from otel_fastperf.instrumentation.suspension import driving
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.requests.time_budget import Cause
from tests.conftest import Probe
from tests.serving import serve, wait_until

#: seconds that each part of the app below computes, and those that it awaits
WORK, WAIT = 0.02, 0.05
#: a timer fires up to a millisecond early
EARLY = 0.005

PREFIX = "fastperf.time."
LOOPS = ["asyncio", "uvloop"]


def compute(seconds: float = WORK) -> None:
    """Hold the thread."""
    time.sleep(seconds)


async def doze() -> None:
    """Wait for `WAIT` seconds after the task has let go of the loop: a busy machine may stop the process before."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_soon(loop.call_later, WAIT, over.set_result, None)
    await over


async def step() -> None:
    """Compute, and wait for something."""
    compute()
    await doze()


class Pure:
    """Pure ASGI middleware that computes and waits."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await step()
        await self.app(scope, receive, send)


class PassingOn(BaseHTTPMiddleware):
    """Runs what is inside of it in another task."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


class Stepping(BaseHTTPMiddleware):
    """Computes and waits, on the way in and out."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        await step()
        response = await call_next(request)
        await step()
        return response


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/quick")
    async def quick() -> str:
        return "done"

    @app.get("/endpoint")
    async def endpoint() -> str:
        await step()
        return "done"

    @app.get("/dependency")
    async def dependency(_: None = Depends(step)) -> str:
        return "done"

    @app.get("/thread")
    def thread() -> str:
        compute()
        return "done"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                await step()
                yield b"piece"

        return StreamingResponse(pieces())

    return app


@contextmanager
def observed(app: FastAPI, loop: str = "asyncio") -> Iterator[tuple[Callable[[str], Any], Telemetry]]:
    with setup_telemetry(app, settings=Settings()) as telemetry, serve(app, loop=loop) as server:
        # the first request pays for imports
        server.get("/nothing")
        yield server.get, telemetry


def spent(telemetry: Telemetry, number: int = 2) -> dict[str, float]:
    """Seconds by segment of the newest request, which add up."""

    def requests() -> list[ReadableSpan]:
        return [span for span in telemetry.spans() if span.kind is SpanKind.SERVER]

    wait_until(lambda: len(requests()) >= number, what="the request's span")
    span = max(requests(), key=lambda span: span.start_time or 0)
    attributes: Any = span.attributes
    found = {
        name.removeprefix("fastperf.time."): value for name, value in attributes.items() if "fastperf.time." in name
    }
    seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    assert sum(found.values()) == pytest.approx(seconds, rel=0.01)
    return found


def computed(found: dict[str, float], part: str) -> float:
    """Seconds that the part ran. Garbage that another thread collects meanwhile counts for the collector."""
    return found[part] + found.get("gc", 0.0)


def awaited(found: dict[str, float], part: str) -> float:
    """Seconds that the part awaited. Of these, a busy machine may take some for the loop, and a collection some."""
    seconds, delayed = found.get(f"{part}_await", 0.0), found.get("loop_wait", 0.0) + found.get("gc", 0.0)
    assert seconds > WAIT / 10 or delayed > WAIT / 2
    return seconds + delayed


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("middleware", [(), (PassingOn,), (PassingOn, PassingOn), (GZipMiddleware, PassingOn)])
@pytest.mark.parametrize(("path", "part"), [("/endpoint", "handler"), ("/dependency", "dependencies")])
def test_what_a_part_computes_and_what_it_awaits_are_two_segments(
    path: str, part: str, middleware: tuple[Any, ...], loop: str
) -> None:
    app = shop()
    for each in middleware:
        app.add_middleware(each)
    with observed(app, loop) as (get, telemetry):
        get(path)
        found = spent(telemetry)
    assert computed(found, part) >= WORK
    assert awaited(found, part) >= WAIT - EARLY
    others = (spent for name, spent in found.items() if name.endswith("_await") and name != f"{part}_await")
    assert sum(others) < WAIT / 2


@pytest.mark.parametrize("inside", [(), (PassingOn,)])
@pytest.mark.parametrize(("middleware", "steps"), [(Pure, 1), (Stepping, 2)])
def test_middleware_computes_and_awaits_too(middleware: Any, steps: int, inside: tuple[Any, ...]) -> None:
    app = shop()
    for each in (*inside, middleware):
        app.add_middleware(each)
    with observed(app) as (get, telemetry):
        get("/quick")
        found = spent(telemetry)
    assert computed(found, "middleware") >= steps * WORK
    assert awaited(found, "middleware") >= steps * (WAIT - EARLY)
    assert found["handler"] < WORK


@pytest.mark.parametrize("middleware", [(), (PassingOn,), (GZipMiddleware,)])
def test_a_stream_computes_and_awaits_in_a_task_of_its_own(middleware: tuple[Any, ...]) -> None:
    app = shop()
    for each in middleware:
        app.add_middleware(each)
    with observed(app) as (get, telemetry):
        get("/stream")
        found = spent(telemetry)
    assert computed(found, "handler") >= 3 * WORK
    assert awaited(found, "handler") >= 3 * (WAIT - EARLY)
    assert found.get("serialization", 0.0) < WORK


def test_a_def_endpoint_computes_while_its_thread_runs() -> None:
    with observed(shop()) as (get, telemetry):
        get("/thread")
        found = spent(telemetry)
    assert computed(found, "handler") >= WORK
    assert found.get("handler_await", 0.0) < WORK


def test_a_request_that_awaits_nothing_has_no_such_segment() -> None:
    with observed(shop()) as (get, telemetry):
        get("/quick")
        assert not [name for name in spent(telemetry) if name.endswith("_await")]


def test_gathered_tasks_are_awaited_unless_they_block_the_event_loop() -> None:
    app = FastAPI()

    async def wait() -> None:
        await doze()

    async def block() -> None:
        await asyncio.sleep(0.01)
        compute(0.3)

    @app.get("/wait")
    async def waiting() -> None:
        await asyncio.gather(wait(), wait())

    @app.get("/block")
    async def blocking() -> None:
        await asyncio.gather(block(), wait())

    with observed(app) as (get, telemetry):
        get("/wait")
        found = spent(telemetry)
        # `spent` has checked that the segments add up, so the two waits count once
        assert awaited(found, "handler") >= WAIT - EARLY
        get("/block")
        found = spent(telemetry, 3)
    assert found["handler"] >= 0.25
    assert found["handler_await"] < 0.15


def test_a_request_that_awaits_nothing_but_its_turn_waits_for_the_event_loop() -> None:
    """Many short blocks, each below the threshold of the watchdog, delay each step of another request."""
    app, go_on = FastAPI(), threading.Event()

    @app.get("/busy")
    async def busy() -> None:
        while not go_on.is_set():
            compute(0.03)
            await asyncio.sleep(0)

    @app.get("/victim")
    async def victim() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()

    with observed(app) as (get, telemetry):
        other = threading.Thread(target=get, args=("/busy",))
        other.start()
        wait_until(lambda: telemetry.metrics.active_requests.total() == 1, what="the busy request")
        get("/victim")
        other.join()
        wait_until(lambda: len(telemetry.spans()) >= 3, what="both spans")
        found = {span.name: span.attributes or {} for span in telemetry.spans()}["GET /victim"]
    assert float(found["fastperf.time.loop_wait"]) >= 4 * 0.03  # type: ignore[arg-type]
    assert float(found.get("fastperf.time.dependencies", 0.0)) < 0.03  # type: ignore[arg-type]
    assert float(found.get("fastperf.time.handler", 0.0)) < 0.03  # type: ignore[arg-type]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_that_is_woken_on_a_busy_loop_waits_for_the_event_loop(loop: str) -> None:
    """It was ready when the loop began to run what is ready, before it got its turn."""
    app, go_on = FastAPI(), threading.Event()

    @app.get("/busy")
    async def busy() -> None:
        async def often() -> None:
            while not go_on.is_set():
                compute(0.02)
                await asyncio.sleep(0)

        await asyncio.gather(often(), often(), often())

    @app.get("/victim")
    async def victim() -> None:
        for _ in range(4):
            await asyncio.sleep(0.001)
        go_on.set()

    with observed(app, loop) as (get, telemetry):
        other = threading.Thread(target=get, args=("/busy",))
        other.start()
        wait_until(lambda: telemetry.metrics.active_requests.total() == 1, what="the busy request")
        get("/victim")
        other.join()
        wait_until(lambda: len(telemetry.spans()) >= 3, what="all spans")
        found: Any = {span.name: span.attributes or {} for span in telemetry.spans()}["GET /victim"]
    assert found["fastperf.time.loop_wait"] >= 3 * 0.05
    assert found["fastperf.time.handler"] < 0.02


def test_a_result_that_comes_from_a_thread_waits_for_the_event_loop() -> None:
    app, go_on = FastAPI(), threading.Event()

    @app.get("/busy")
    async def busy() -> None:
        while not go_on.is_set():
            compute(0.04)
            await asyncio.sleep(0)

    @app.get("/victim")
    def victim() -> None:
        time.sleep(0.005)

    with observed(app) as (get, telemetry):
        other = threading.Thread(target=get, args=("/busy",))
        other.start()
        wait_until(lambda: telemetry.metrics.active_requests.total() == 1, what="the busy request")
        get("/victim")
        go_on.set()
        other.join()
        wait_until(lambda: len(telemetry.spans()) >= 3, what="both spans")
        found = {span.name: span.attributes or {} for span in telemetry.spans()}["GET /victim"]
    assert float(found["fastperf.time.loop_wait"]) >= 0.03  # type: ignore[arg-type]
    assert float(found["fastperf.time.handler"]) < 0.03  # type: ignore[arg-type]


def test_many_suspensions_keep_little_and_are_all_counted() -> None:
    app = FastAPI()
    kept: list[int] = []

    @app.get("/")
    async def polling() -> None:
        record = CURRENT.get()
        assert record is not None
        for _ in range(1000):
            await asyncio.sleep(0.0001)
            kept.append(len(record.marks))

    with observed(app) as (get, telemetry):
        get("/")
        found = spent(telemetry)
    assert max(kept) <= MOST_MARKS
    assert found["handler_await"] >= 0.05


def test_a_statement_that_lasts_while_suspensions_are_counted_up_keeps_its_time() -> None:
    app = FastAPI()

    @app.get("/")
    async def polling() -> None:
        record = CURRENT.get()
        assert record is not None
        for _ in range(200):
            started = time.perf_counter()
            await asyncio.sleep(0.0002)
            await asyncio.sleep(0.0002)
            record.waited(started, time.perf_counter(), Cause.DB)

    with observed(app) as (get, telemetry):
        get("/")
        found = spent(telemetry)
    assert found["db"] >= 200 * 0.0004
    assert found.get("handler_await", 0.0) < 0.02 * found["db"]


def test_the_await_chain_can_be_walked_from_what_is_driven() -> None:
    app = shop()
    app.add_middleware(PassingOn)
    seen: list[list[str]] = []

    @app.get("/walk")
    async def walked() -> None:
        record = CURRENT.get()
        assert record is not None
        asyncio.get_running_loop().call_later(0.01, lambda: seen.append(list(chain(record.driven))))
        await step()

    with TestClient(app), setup_telemetry(app) as telemetry, TestClient(app) as client:
        client.get("/walk")
        assert telemetry.spans()
    (names,) = seen
    assert names[-3:] == ["walked", "step", "doze"]


def chain(awaiting: Any) -> Iterator[str]:
    while awaiting is not None:
        name = getattr(awaiting, "__name__", "")
        if name:
            yield name
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "gi_yieldfrom", None)


@pytest.mark.parametrize("middleware", [(), (PassingOn,)])
def test_a_request_that_has_ended_is_freed_at_once(middleware: tuple[Any, ...]) -> None:
    if is_kept(middleware, nullcontext):
        pytest.skip("this Starlette itself keeps it until the garbage collector runs")
    assert not is_kept(middleware, setup_telemetry)


def is_kept(middleware: tuple[Any, ...], telemetry: Callable[[FastAPI], AbstractContextManager[Any]]) -> bool:
    """True if something that a request refers to outlives it, without the garbage collector."""
    app = shop()
    for each in middleware:
        app.add_middleware(each)
    kept: list[weakref.ref[Any]] = []

    class Kept:
        """Something that the request refers to."""

    @app.get("/keep")
    async def keep(request: Request) -> None:
        request.state.kept = of_request = Kept()
        kept.append(weakref.ref(of_request))
        await asyncio.sleep(0)

    with telemetry(app), TestClient(app) as client:
        gc.collect()
        gc.disable()
        try:
            client.get("/keep")
            with suppress(AssertionError):
                wait_until(lambda: kept[0]() is None, seconds=2.0)
            return kept[0]() is not None
        finally:
            gc.enable()


# what the event loop and the coroutine see of each other


@coroutine
def pause(value: object = None) -> Generator[Any, Any, Any]:
    return (yield value)


@pytest.fixture
def record(probe: Probe) -> RequestRecord:
    return RequestRecord(probe.signals, {"type": "http"}, INVALID_SPAN, time.perf_counter())


Driver = Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]


@pytest.fixture(params=["awaited", "driven"])
def run(request: pytest.FixtureRequest, record: RequestRecord, probe: Probe) -> Driver:
    """Two ways to run a coroutine, which nobody can tell apart."""

    async def awaited(inner: Awaitable[Any]) -> Any:
        return await inner

    async def driven(inner: Awaitable[Any]) -> Any:
        return await driving(inner, record, probe.signals)

    return awaited if request.param == "awaited" else driven


async def conversation(log: list[object]) -> str:
    for word in ("first", "second", "third"):
        try:
            log.append(await pause(word))
        except ValueError as error:
            log.append(error)
    return "end"


def test_values_pass_in_both_directions(run: Driver) -> None:
    log: list[object] = []
    running = run(conversation(log))
    assert [running.send(None), running.send(1), running.send(2)] == ["first", "second", "third"]
    with pytest.raises(StopIteration) as end:
        running.send(3)
    assert end.value.value == "end"
    assert log == [1, 2, 3]


def test_exceptions_that_are_thrown_in_can_be_caught(run: Driver) -> None:
    log: list[object] = []
    running = run(conversation(log))
    running.send(None)
    error = ValueError("thrown in")
    assert running.throw(error) == "second"
    assert log == [error]
    with pytest.raises(KeyError):
        running.throw(KeyError("not caught"))


def test_closing_runs_finally_blocks(run: Driver) -> None:
    log: list[object] = []

    async def careful() -> None:
        try:
            await pause()
        finally:
            log.append("closed")

    running = run(careful())
    running.send(None)
    running.close()
    assert log == ["closed"]


def test_a_coroutine_that_refuses_to_close_is_told_so(run: Driver) -> None:
    async def stubborn() -> None:
        try:
            await pause()
        except GeneratorExit:
            await pause()

    running = run(stubborn())
    running.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        running.close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_coroutine_that_raises_has_the_same_traceback(run: Driver, when: str) -> None:
    """Except for the line that drives it, which is in between."""

    async def inner() -> None:
        if when == "after":
            await pause()
        raise LookupError(when)

    async def outer() -> None:
        await inner()

    running = run(outer())
    if when == "after":
        running.send(None)
    with pytest.raises(LookupError) as raised:
        running.send(None)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert [name for name in names if name != "driving"][1:] == [run.__name__, "outer", "inner"]
    assert raised.value.__context__ is None


def raised_by_other() -> IndexError:
    with pytest.raises(IndexError) as raised:
        [].pop()
    return raised.value


def test_a_thrown_exception_has_the_same_traceback_and_no_context(run: Driver) -> None:
    async def inner() -> None:
        await pause()

    async def outer() -> None:
        await inner()

    running, thrown = run(outer()), raised_by_other()
    running.send(None)
    with pytest.raises(IndexError) as raised:
        running.throw(thrown)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    at = names.index(run.__name__)
    assert [name for name in names[at:] if name != "driving"] == [
        *(run.__name__, "outer", "inner", "pause"),
        *(names[names.index("pause") + 1 :]),
    ]
    assert names[-1] == "raised_by_other"
    assert raised.value.__context__ is None


def test_an_exception_that_was_handled_is_no_context_of_a_later_one(run: Driver) -> None:
    async def recovering() -> None:
        with suppress(ValueError):
            await pause()
        raise LookupError

    running = run(recovering())
    running.send(None)
    with pytest.raises(LookupError) as raised:
        running.throw(ValueError())
    assert raised.value.__context__ is None


def test_an_exception_is_in_no_reference_cycle(run: Driver) -> None:
    class OfTheAppError(Exception):
        pass

    async def failing() -> None:
        await pause()

    gc.collect()
    gc.disable()
    try:
        running = run(failing())
        running.send(None)
        gone = []
        try:
            running.throw(OfTheAppError())
        except OfTheAppError as error:
            gone.append(weakref.ref(error))
        del running
        assert gone[0]() is None
    finally:
        gc.enable()


def test_an_awaitable_that_is_no_coroutine_is_awaited(run: Driver) -> None:
    class Ready:
        def __await__(self) -> Generator[Any, Any, str]:
            yield
            return "ready"

    running = run(Ready())
    running.send(None)
    with pytest.raises(StopIteration) as end:
        running.send(None)
    assert end.value.value == "ready"


def test_context_variables_are_those_of_the_task(run: Driver) -> None:
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def counting() -> None:
        for _ in range(3):
            variable.set(variable.get() + 1)
            await asyncio.sleep(0)

    async def main() -> int:
        await run(counting())
        return variable.get()

    assert asyncio.run(main()) == 3


def test_a_time_out_cancels_what_is_driven(run: Driver) -> None:
    async def main() -> None:
        async with asyncio.timeout(0.01):
            await run(asyncio.sleep(10))

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_a_cancel_scope_works_inside_of_what_is_driven(run: Driver) -> None:
    async def main() -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep(10)
        return "moved on"

    assert asyncio.run(run(main())) == "moved on"


def test_a_cancelled_task_is_cancelled(run: Driver) -> None:
    async def main() -> None:
        task = asyncio.create_task(run(asyncio.sleep(10)))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_nothing_is_driven_in_the_end(record: RequestRecord, probe: Probe) -> None:
    async def main() -> Any:
        async def look() -> Any:
            return record.driven

        return await driving(look(), record, probe.signals)

    driven = asyncio.run(main())
    assert driven.__name__ == "look"
    assert record.driven is None


@pytest.mark.parametrize("path", ["/refused", "/broken", "/response"])
def test_the_segments_add_up_however_the_endpoint_ends(path: str) -> None:
    app = shop()
    app.add_middleware(PassingOn)

    @app.get("/refused")
    async def refused() -> None:
        await asyncio.sleep(0.01)
        raise HTTPException(409)

    @app.get("/broken")
    async def broken() -> None:
        await asyncio.sleep(0.01)
        raise ValueError

    @app.get("/response")
    async def response() -> JSONResponse:
        await asyncio.sleep(0.01)
        return JSONResponse({})

    with observed(app) as (get, telemetry):
        get(path)
        found = spent(telemetry)
    # a busy machine or a collection may have a part of it
    assert found["handler_await"] + found.get("loop_wait", 0.0) + found.get("gc", 0.0) >= 0.008
