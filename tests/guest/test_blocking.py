"""Telemetry does not block the event loop: not while the app starts, serves and stops.

Test suites that run under blockbuster turn red otherwise. What blocks is replaced here by functions that tell of it.
"""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import otel_fastperf
from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.monitors import runner
from tests.serving import free_port

PACKAGE = str(Path(otel_fastperf.__file__).parent)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of the package that wait on the thread of a running event loop."""
    found: list[str] = []
    for owner, name in ((threading.Thread, "join"), (threading.Condition, "wait"), (time, "sleep")):
        monkeypatch.setattr(owner, name, _telling(getattr(owner, name), found))
    return found


def _telling(original: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    def waits(*arguments: Any, **options: Any) -> Any:
        line = _line_of_package()
        if line and _is_on_loop():
            found.append(line)
        return original(*arguments, **options)

    return waits


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _line_of_package() -> str:
    """The innermost frame of the package, unless it starts a thread, which waits until that runs."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "start" and frame.f_code.co_filename == threading.__file__:
            return ""
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@pytest.mark.parametrize("port", [False, True])
@pytest.mark.parametrize("lifespan", [False, True])
def test_nothing_waits_on_the_event_loop(tmp_path: Path, blocked: list[str], lifespan: bool, port: bool) -> None:
    app = FastAPI()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")

    @app.get("/sql")
    async def sql() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError

    @app.get("/def")
    def in_thread() -> None:
        pass

    metrics = {"port": free_port()} if port else {}
    telemetry = setup_telemetry(app, settings=Settings(metrics=metrics, loop={"start_after": 0.0}))

    async def main() -> None:
        async with AsyncExitStack() as exits:
            if lifespan:
                await exits.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("127.0.0.1", 1))
            client = await exits.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
            )
            for path in ("/sql", "/fails", "/def", "/metrics", "/debug/fastperf", "/nowhere"):
                await client.get(path)
        await engine.dispose()

    asyncio.run(main())
    telemetry.shutdown()
    assert blocked == []
    errors = (each for each in telemetry.metrics.registry.collect() if each.name == "fastperf_telemetry_errors")
    assert [sample for family in errors for sample in family.samples] == []


def test_a_monitor_that_fails_to_end_does_not_fail_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot end")

    @asynccontextmanager
    async def other() -> AsyncIterator[None]:
        yield
        ended.append("other")

    made = runner.MonitorRunner.__init__

    def init(self: runner.MonitorRunner, of_process: Any, of_loop: Any, guard: Any) -> None:
        made(self, (other, failing, *of_process), of_loop, guard)

    monkeypatch.setattr(runner.MonitorRunner, "__init__", init)
    app = FastAPI()
    with setup_telemetry(app) as telemetry:

        async def main() -> None:
            async with app.router.lifespan_context(app):
                pass

        asyncio.run(main())
        assert ended == ["other"]
        assert telemetry.metrics.registry.get_sample_value("fastperf_telemetry_errors_total", {"part": "monitors"})


@pytest.mark.parametrize("lifespan", [False, True])
def test_the_check_finds_what_waits(blocked: list[str], lifespan: bool) -> None:
    """Otherwise the test above would prove nothing."""
    if not lifespan:
        exec(compile("import time; time.sleep(0)", f"{PACKAGE}/a.py", "exec"))
        assert blocked == []
        return

    async def main() -> None:
        exec(compile("import time; time.sleep(0)", f"{PACKAGE}/a.py", "exec"))

    asyncio.run(main())
    assert blocked == [f"{PACKAGE}/a.py:1"]
