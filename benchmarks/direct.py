"""The same apps, called in process, without a server and without sockets except the export's: to compare a change.

    python -m benchmarks.direct
    python -m benchmarks.direct bare contrib_nosr fastperf --rounds 40

CPU microseconds per request: `process` covers all threads, export included, `loop` only the event loop's thread, for
which other requests wait. Each variant runs in its own process; they take turns with short batches. A figure is that of
the cheapest batch, because disturbances only ever add time. `per statement` is a ninth of what the nine further
statements of `/report` add to `/items`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from benchmarks import table
from benchmarks.database import seeded
from benchmarks.overhead import otlp_sink
from benchmarks.variants import PATHS, STATEMENTS, VARIANTS, Setting, environment, flush, from_environment

_ROOT: Final = Path(__file__).parent.parent
#: SQL statements of a request -> requests in a batch, for about 0.1 s each
_BATCH: Final = {0: 500, 1: 100, 10: 25}
#: the headers of an HTTP client's request, as uvicorn passes them on
_HEADERS: Final = (
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
)

#: of one batch: clock -> seconds of CPU per request
Costs = Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print one table for each clock."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; all without")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dsn", help="a database, as SQLAlchemy's async URL; an SQLite file without")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_work())
        return
    with seeded(options.dsn) as dsn, otlp_sink() as sink:
        batches = _run(options.variants or list(VARIANTS), Setting(dsn, sink), options.rounds)
    for clock in ("process", "loop"):
        print("\n" + "\n".join(_table(clock, _cheapest(batches, clock))))


def _run(variants: Sequence[str], setting: Setting, rounds: int) -> dict[str, dict[str, list[Costs]]]:
    """Return variant -> path -> batches. The first round warms up and does not count."""
    batches: dict[str, dict[str, list[Costs]]] = {variant: {path: [] for path in PATHS} for variant in variants}
    with ExitStack() as stack:
        workers = {variant: stack.enter_context(_worker(variant, setting)) for variant in variants}
        for index in range(rounds + 1):
            for path in PATHS:
                for variant, worker in workers.items():
                    costs = worker(path)
                    if index:
                        batches[variant][path].append(costs)
    return batches


@contextmanager
def _worker(variant: str, setting: Setting) -> Iterator[Callable[[str], Costs]]:
    """Start a process with the app of a variant; yield a function that runs a batch for a path."""
    command = [sys.executable, "-m", "benchmarks.direct", "--worker"]
    environ = environment(variant, setting)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=_ROOT, env=environ, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101
        commands, answers = process.stdin, process.stdout

        def batch(path: str) -> Costs:
            print(path, file=commands, flush=True)
            answer = answers.readline()
            if not answer:
                sys.exit(f"The worker of {variant} has ended; its output is above.")
            costs: Costs = json.loads(answer)
            return costs

        yield batch


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Choose as uvicorn does: uvloop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _work() -> None:
    """Run a batch for each path on stdin, in a process with the environment of `environment()`."""
    app = from_environment()
    async with app.router.lifespan_context(app):
        while path := (await asyncio.to_thread(sys.stdin.readline)).strip():
            costs = await _batch(app, PATHS[path], _BATCH[STATEMENTS[path]])
            print(json.dumps(costs), flush=True)


async def _batch(app: FastAPI, path: str, number: int) -> dict[str, float]:
    process, loop = time.process_time(), time.thread_time()
    for _ in range(number):
        await _request(app, path)
    loop = time.thread_time() - loop
    # the cost of a batch includes its export
    await asyncio.to_thread(flush)
    return {"process": (time.process_time() - process) / number, "loop": loop / number}


async def _request(app: FastAPI, path: str) -> None:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 54321),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": list(_HEADERS),
        "state": {},
    }
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    if statuses != [200]:
        message = f"{path} answered {statuses}"
        raise RuntimeError(message)


def _cheapest(batches: Mapping[str, Mapping[str, Sequence[Costs]]], clock: str) -> dict[str, dict[str, float]]:
    """Return column -> variant -> microseconds."""
    columns = {
        path: {variant: min(each[clock] for each in paths[path]) * 1e6 for variant, paths in batches.items()}
        for path in PATHS
    }
    one, many = columns["/items"], columns["/report"]
    more = STATEMENTS["/report"] - STATEMENTS["/items"]
    return columns | {"per statement": {variant: (many[variant] - one[variant]) / more for variant in batches}}


def _table(clock: str, columns: Mapping[str, Mapping[str, float]]) -> list[str]:
    head = [f"{clock}, us"]
    rows: dict[str, list[str]] = {}
    for column, costs in columns.items():
        head += [column, "added", "ratio"]
        for variant, cost, added, ratio in table.additions(costs):
            cells = (table.number(cost), table.number(added, sign=True), table.number(ratio, 2))
            rows.setdefault(variant, [variant]).extend(cells)
    return list(table.lines(head, list(rows.values())))


if __name__ == "__main__":
    main()
