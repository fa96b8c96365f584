"""The same apps, called in process, without a server and without sockets except the export's: to compare a change.

    python -m benchmarks.direct
    python -m benchmarks.direct bare stock fastperf --path /ping --path /items-sync --rounds 40

CPU per request: `process` covers all threads, export included, `loop` only the event loop's thread, for which other
requests wait. Each variant runs in its own process, and they take turns with batches of a quarter of a second, before
each of which garbage is collected.

A ratio is what a variant adds to the cost of `bare`, divided by what `stock` adds in the same round. The table shows
the median over the rounds and, after ±, the median absolute deviation of the rounds from it. Microseconds are medians:
the cost of `bare`, and what the others add to it.

The columns with a thread that runs the statements, aiosqlite's, vary most; those called `sync` have none. A full run of
the garbage collector within a batch is part of the cost, because telemetry keeps objects alive until they are exported.
"""

import argparse
import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

from fastapi import FastAPI

from benchmarks import table
from benchmarks.database import seeded
from benchmarks.overhead import otlp_sink
from benchmarks.variants import (
    IN_MEMORY,
    PATHS,
    STATEMENTS,
    VARIANTS,
    Setting,
    environment,
    flush,
    from_environment,
    installed,
)

_ROOT: Final = Path(__file__).parent.parent
#: seconds of a batch
_BATCH: Final = 0.25
#: the headers of an HTTP client's request, as uvicorn passes them on
_HEADERS: Final = (
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
)

#: of one batch: clock -> microseconds of CPU per request
Costs = Mapping[str, float]
#: path -> one entry per round: variant -> costs
Rounds = Mapping[str, Sequence[Mapping[str, Costs]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print one table for each clock."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.direct", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; all without")
    parser.add_argument("--path", action="append", choices=PATHS, help="repeatable; all without")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=_BATCH, help="of a batch")
    parser.add_argument("--dsn", help="a database, as SQLAlchemy's async URL; an SQLite file without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the costs of every batch there")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_work(options.seconds))
        return
    variants = installed(options.variants or list(VARIANTS))
    rounds = run(variants, options.path or list(PATHS), options.rounds, seconds=options.seconds, dsn=options.dsn)
    for clock in ("process", "loop"):
        print("\n" + "\n".join(_table(clock, variants, {path: of_clock(rounds[path], clock) for path in rounds})))
    if options.json:
        options.json.write_text(json.dumps(rounds))


def run(
    variants: Sequence[str], paths: Sequence[str], number: int, *, seconds: float = _BATCH, dsn: str | None = None
) -> Rounds:
    """Measure every variant on every path, `number` times. One round before warms up and does not count."""
    rounds: dict[str, list[Mapping[str, Costs]]] = {path: [] for path in paths}
    with seeded(dsn) as seeded_dsn, otlp_sink() as sink, ExitStack() as stack:
        setting = Setting(seeded_dsn, sink)
        workers = {variant: stack.enter_context(_worker(variant, setting, seconds)) for variant in variants}
        for index in range(number + 1):
            for path in paths:
                costs = {variant: worker(path) for variant, worker in workers.items()}
                if index:
                    rounds[path].append(costs)
    return rounds


def of_clock(rounds: Sequence[Mapping[str, Costs]], clock: str) -> list[dict[str, float]]:
    """Return variant -> microseconds, for each round."""
    return [{variant: costs[clock] for variant, costs in each.items()} for each in rounds]


def column(path: str) -> str:
    """Name the column of a path: `no I/O`, `1 statement`, `10 statements, sync`."""
    number = STATEMENTS[path]
    name = {0: "no I/O", 1: "1 statement"}.get(number, f"{number} statements")
    return f"{name}, sync" if path in IN_MEMORY else name


@contextmanager
def _worker(variant: str, setting: Setting, seconds: float) -> Iterator[Callable[[str], Costs]]:
    """Start a process with the app of a variant; yield a function that runs a batch for a path.

    Its log, with the findings about these apps, is shown only if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.direct", "--worker", f"--seconds={seconds}"]
    environ = environment(variant, setting)
    pipe = subprocess.PIPE
    with (
        TemporaryFile("w+") as log,
        subprocess.Popen(command, cwd=_ROOT, env=environ, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        assert process.stdin is not None  # noqa: S101 - asked for above
        assert process.stdout is not None  # noqa: S101
        commands, answers = process.stdin, process.stdout

        def batch(path: str) -> Costs:
            print(path, file=commands, flush=True)
            answer = answers.readline()
            if not answer:
                log.seek(0)
                sys.exit(f"{log.read()}The worker of {variant} has ended; its output is above.")
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


async def _work(seconds: float) -> None:
    """Run a batch for each path on stdin, in a process with the environment of `environment()`."""
    app = from_environment()
    async with app.router.lifespan_context(app):
        while path := (await asyncio.to_thread(sys.stdin.readline)).strip():
            print(json.dumps(await _batch(app, PATHS[path], seconds)), flush=True)


async def _batch(app: FastAPI, path: str, seconds: float) -> dict[str, float]:
    gc.collect()
    number = 0
    until = time.perf_counter() + seconds
    process, loop = time.process_time(), time.thread_time()
    while time.perf_counter() < until or not number:
        await _request(app, path)
        # a server, too, comes back to the loop between requests, where it lets go of the GIL for other threads
        await asyncio.sleep(0)
        number += 1
    loop = time.thread_time() - loop
    # the cost of a batch includes its export
    await asyncio.to_thread(flush)
    return {"process": (time.process_time() - process) / number * 1e6, "loop": loop / number * 1e6}


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


def _table(clock: str, variants: Sequence[str], columns: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    head = [f"{clock}, us"]
    rows = {variant: [variant] for variant in variants}
    for path, rounds in columns.items():
        head += [column(path), "ratio"]
        ratios = table.ratios(rounds)
        for variant, cost, added, _ in table.additions(table.medians(rounds)):
            microseconds = table.number(cost) if added is None else table.number(added, sign=True)
            rows[variant] += (microseconds, str(ratios.get(variant, "-")))
    yield from table.lines(head, list(rows.values()))


if __name__ == "__main__":
    main()
