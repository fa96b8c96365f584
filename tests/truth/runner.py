"""Runs apps as a user does: `uvicorn NAME:app` in a process of its own, with a database and a slow neighbour."""

import asyncio
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import psycopg

from otel_fastperf import Report
from tests.postgresql import NoServerError, server_url, with_driver
from tests.serving import ROOT, free_port
from tests.truth.catalogue import APPS, Variant
from tests.truth.judge import Judgement, judge
from tests.truth.load import send

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
#: for what is measured on the clock, such as the last block of the event loop
_SETTLE_SECONDS: Final = 0.5
_DATABASES: Final = count()

#: variables of the shell that would change what an app measures
_FOREIGN: Final = ("OTEL_", "FASTAPI_OTEL", "PROMETHEUS_", "FIXED", "DATABASE_URL", "SYNC_DATABASE_URL", "NEIGHBOUR")


async def run(
    variants: Iterable[Variant],
    *,
    at_once: int,
    short: float = math.inf,
    busy: bool = False,
    tell: Callable[[Judgement], object] = lambda _: None,
) -> list[Judgement]:
    """Run the variants, `at_once` at a time, and judge each.

    `short` limits the seconds of load that lasts. `busy` lets two other processes take the CPU meanwhile.
    """
    room = asyncio.Semaphore(at_once)

    async def one(variant: Variant, neighbour: str) -> Judgement:
        async with room:
            try:
                judgement = await _judged(variant, neighbour, short)
            except (RunError, NoServerError, httpx.HTTPError, TimeoutError) as error:
                judgement = Judgement(variant, wrong=(f"not run: {error!r}",))
        tell(judgement)
        return judgement

    async with _neighbour() as neighbour, _taken_cpu(2 if busy else 0):
        return list(await asyncio.gather(*(one(variant, neighbour) for variant in variants)))


class RunError(Exception):
    """An app cannot be run. The message says why."""


async def _judged(variant: Variant, neighbour: str, short: float) -> Judgement:
    with tempfile.TemporaryDirectory(prefix="fastperf-truth-") as folder:
        environment = {
            **variant.app.truth.environment,
            **(_database(variant.database, Path(folder)) if variant.database else {}),
            "NEIGHBOUR": neighbour,
            "FIXED": "1" if variant.healthy else "",
        }
        command = ("uvicorn", variant.app.target, "--app-dir", str(APPS), "--loop", variant.loop)
        async with _server(command, environment, Path(folder)) as (url, log):
            truth = variant.app.truth
            outcomes = await asyncio.wait_for(send(url, truth.load, min(truth.lasts, short)), truth.seconds)
            await asyncio.sleep(_SETTLE_SECONDS)
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                report = Report.from_json((await client.get("/debug/fastperf?format=json")).text)
                text = (await client.get("/debug/fastperf?format=text")).text
            failures = {outcome: number for outcome, number in outcomes.items() if not outcome.startswith(("2", "4"))}
            if failures.keys() - {"left", "closed"} or report.troubles:
                message = f"{failures} {dict(report.troubles)} {_end_of(log)}"
                raise RunError(message)
    return judge(variant, report, text)


def _database(name: str, folder: Path) -> dict[str, str]:
    """Variables that lead to an empty database."""
    if name == "sqlite":
        path = folder / "app.sqlite3"
        return {"DATABASE_URL": f"sqlite+aiosqlite:///{path}", "SYNC_DATABASE_URL": f"sqlite:///{path}"}
    url = server_url()
    fresh = f"truth_{os.getpid()}_{next(_DATABASES)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {fresh}".encode())
    url = f"{url.rpartition('/')[0]}/{fresh}"
    return {"DATABASE_URL": with_driver(url, "asyncpg"), "SYNC_DATABASE_URL": with_driver(url, "psycopg")}


@asynccontextmanager
async def _neighbour() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="fastperf-truth-") as folder:
        async with _server(("uvicorn", "tests.truth.neighbour:app"), {}, Path(folder)) as (url, _):
            yield url


@asynccontextmanager
async def _server(
    command: Iterable[str], environment: Mapping[str, str], folder: Path
) -> AsyncIterator[tuple[str, Path]]:
    """Run `python -m command` on a free port: its URL, and the file with its output."""
    port, log = free_port(), folder / "log"
    usual = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command, "--port", str(port), "--log-level", "warning"),
            env={**usual, "PYTHONPATH": str(ROOT), **environment},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await _answers(process, port, log)
        yield f"http://127.0.0.1:{port}", log
    finally:
        await _end(process)


async def _answers(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise RunError(f"does not start: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _taken_cpu(number: int) -> AsyncIterator[None]:
    """That many other processes compute without end."""
    endless = (sys.executable, "-c", "while True: pass")
    processes = [await asyncio.create_subprocess_exec(*endless) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()
