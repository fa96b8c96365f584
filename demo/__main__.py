"""The demo: start the shop, drive it, and print its telemetry.

    python -m demo                 30 seconds of load, then a summary and the doctor's report
    python -m demo serve           the shop under light load until Ctrl-C

Set `DATABASE_URL` to run on PostgreSQL, and `OTEL_EXPORTER_OTLP_ENDPOINT` to send traces to a collector or Jaeger.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from demo.capture import Capture, fetch_diagnosis, fetch_kept, fetch_spans, scraping
from demo.database import database_url
from demo.load import LIGHT, Load, Plan
from demo.seed import clear, seed
from demo.server import Server, ServerError, listen, serving
from demo.summary import summary
from demo.terminal import Progress, paint_for
from otel_fastperf.report.formatting import Paint
from otel_fastperf.report.text import verdict

PORT: Final = 8000
HIGHEST_PORT: Final = 65_535
LONGEST: Final = 3600.0
#: room for every span of a run, so that the slowest traces are not dropped
STORE: Final = "60000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _options(arguments)
    try:
        with _listener(options.port) as listener, _sandbox() as (environ, folder):
            return asyncio.run(_until_signalled(_COMMANDS[options.command](options, listener, environ, folder)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nStopped.")
        return 0 if options.command == "serve" else 130
    except SQLAlchemyError as error:
        print(f"The database cannot be used: {getattr(error, 'orig', None) or error}", file=sys.stderr)
    except httpx.HTTPError as error:
        print(f"The shop is running, but its telemetry does not answer: {error}", file=sys.stderr)
    except (ServerError, ValueError) as error:
        print(error, file=sys.stderr)
    return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Run the demo shop and print its telemetry.")
    parser.add_argument("command", nargs="?", choices=sorted(_COMMANDS), default="run", help="run (default) or serve")
    parser.add_argument(
        "--seconds", type=_seconds, default=30.0, help="duration of the load with `run` (30), or one round"
    )
    parser.add_argument("--port", type=_port, help=f"port to listen on ({PORT}, or a free one)")
    parser.add_argument("--healthy", action="store_true", help="leave the bottlenecks alone")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the data of the summary as JSON")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= LONGEST:
        message = f"must be 1 to {LONGEST:.0f}"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= HIGHEST_PORT:
        message = f"must be 1 to {HIGHEST_PORT}"
        raise argparse.ArgumentTypeError(message)
    return port


def _listener(port: int | None) -> socket.socket:
    """Listen on the requested port; without one, on 8000 or any free port."""
    if port is not None:
        return listen(port)
    try:
        return listen(PORT)
    except ServerError:
        return listen(0)


@contextmanager
def _sandbox() -> Iterator[tuple[dict[str, str], Path]]:
    """Make a seeded database and a folder for its file and the log; yield the service's environment and the folder.

    Everything is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="otel-fastperf-demo-", ignore_cleanup_errors=True) as folder:
        url = database_url() if os.environ.get("DATABASE_URL") else database_url({"DATABASE_URL": _file(folder)})
        environ = {
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "OTEL_SERVICE_NAME": os.environ.get("OTEL_SERVICE_NAME", "shop"),
            "OTEL_FASTPERF_TRACES_STORE_SIZE": os.environ.get("OTEL_FASTPERF_TRACES_STORE_SIZE", STORE),
        }
        seed(url)
        try:
            yield environ, Path(folder)
        finally:
            clear(url)


def _file(folder: str) -> str:
    return URL.create("sqlite", database=str(Path(folder, "shop.sqlite3"))).render_as_string()


async def _until_signalled(command: Coroutine[Any, Any, None]) -> int:
    """Run the command; SIGTERM and a closed terminal end it as Ctrl-C does."""
    task = asyncio.ensure_future(command)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task
    return 0


async def _run(options: argparse.Namespace, listener: socket.socket, environ: dict[str, str], folder: Path) -> None:
    """Drive the shop for a while, then print the summary and the doctor's report."""
    paint = paint_for(sys.stdout)
    load = Load(Plan(troubles=not options.healthy))
    async with _shop(listener, environ, folder, paint) as server:
        async with scraping(server.url) as scrapes:
            await _drive(server, load, options.seconds)
        # before the spans: to serve thousands of them is work that a shop does not have
        diagnosis = await fetch_diagnosis(server.url)
        spans = await fetch_spans(server.url)
        kept = await fetch_kept(server.url)
    capture = Capture(_backend(environ), load.sent, tuple(scrapes), spans, _endpoint(), load.others, kept)
    if options.save:
        options.save.write_text(capture.to_json())
    print(f"\n{summary(capture, paint)}\n")
    print(paint.bold("The doctor's report") + paint.dim("   the output of `otel-fastperf doctor URL`\n"))
    print(f"{verdict(diagnosis, colour=paint.colour)}\n")
    print(paint.dim("The shop has been stopped. `make demo-serve` keeps it running."))


async def _serve(options: argparse.Namespace, listener: socket.socket, environ: dict[str, str], folder: Path) -> None:
    """Keep the shop running under light load until the task is cancelled."""
    paint = paint_for(sys.stdout)
    load = Load(replace(LIGHT, troubles=not options.healthy))
    async with _shop(listener, environ, folder, paint) as server:
        print(paint.dim("A few shoppers are using it. Press Ctrl-C to stop."), flush=True)
        driving = asyncio.create_task(load.run(server.url, float("inf")))
        try:
            while not driving.done():
                await asyncio.sleep(0.5)
                server.check()
            await driving
        finally:
            driving.cancel()
            with suppress(asyncio.CancelledError):
                await driving


@asynccontextmanager
async def _shop(listener: socket.socket, environ: dict[str, str], folder: Path, paint: Paint) -> AsyncIterator[Server]:
    """Run the shop and print its addresses."""
    print(paint.dim(f"Starting the shop on {_backend(environ)} …"), flush=True)
    async with serving(listener, environ, folder / "server.log") as server:
        for name, where in _addresses(server.url):
            print(f"{name:<11}{paint.cyan(where)}", flush=True)
        yield server


_COMMANDS: Final = {"run": _run, "serve": _serve}


def _backend(environ: dict[str, str]) -> str:
    return {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[database_url(environ).get_backend_name()]


async def _drive(server: Server, load: Load, seconds: float) -> None:
    progress = Progress("Shopping", seconds)
    started = time.monotonic()
    driving = asyncio.create_task(load.run(server.url, seconds))
    try:
        while not driving.done():
            await asyncio.wait({driving}, timeout=0.1)
            server.check()
            progress.show(time.monotonic() - started, f"{load.outcomes.total():,} requests, {load.failed:,} failed")
        await driving
    finally:
        progress.clear()
        driving.cancel()


def _endpoint() -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _addresses(url: str) -> Iterator[tuple[str, str]]:
    yield "Shop", f"{url}/docs"
    yield "Metrics", f"{url}/metrics"
    yield "Report", f"{url}/debug/fastperf?format=html"
    if endpoint := _endpoint():
        yield "Traces to", endpoint
        yield "Jaeger", f"http://{urlsplit(endpoint).hostname}:16686, if the endpoint is Jaeger or forwards to it"


if __name__ == "__main__":
    sys.exit(main())
