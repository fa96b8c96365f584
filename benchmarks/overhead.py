"""The cost of instrumentation in a real server: CPU microseconds per request, each variant in turn, several rounds.

    python -m benchmarks.overhead
    python -m benchmarks.overhead bare stock fastperf --path /report --rounds 5 --dsn postgresql+asyncpg://…

With two CPUs and `taskset`, uvicorn has one CPU, load generator and OTLP receiver the other. CPU time is that of the
server process, user and system, with all threads and the export, so other load on the machine changes it little. Rounds
are interleaved and figures are medians. Quote ratios rather than microseconds, which differ by 10 to 20 % between runs.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from benchmarks import table
from benchmarks.database import CLIENTS, seeded
from benchmarks.load import Outcome, drive
from benchmarks.variants import IN_MEMORY, PATHS, USAGE, VARIANTS, Setting, environment, installed

_ROOT: Final = Path(__file__).parent.parent
_START_SECONDS: Final = 30.0
#: seconds of load before each measurement, to wake up the server
_WARM_UP: Final = 0.2
#: seconds without a request served after which a server is idle
_SETTLE: Final = 0.1

#: variant -> path -> one entry per round: figure -> value
Rounds = dict[str, dict[str, list[dict[str, float]]]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print one table for each path."""
    options = _options(arguments)
    print(_setting(options), flush=True)
    with seeded(options.dsn) as dsn, otlp_sink() as sink:
        bench = Bench(Setting(dsn, sink), options.seconds)
        rounds = bench.run(options.variants, options.path, options.rounds)
    result = {path: {variant: table.medians(paths[path]) for variant, paths in rounds.items()} for path in options.path}
    for path, figures in result.items():
        print("\n" + "\n".join(_table(path, figures)))
    print("\n" + "\n".join(f"{variant:<22}{VARIANTS[variant].about}" for variant in options.variants))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; all without")
    parser.add_argument("--path", action="append", choices=PATHS, help="repeatable; without, all but those in memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of load, for each variant, path and round")
    parser.add_argument("--dsn", help="a database, as SQLAlchemy's async URL; an SQLite file without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the medians there")
    options = parser.parse_args(arguments)
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {', '.join(unknown)}. Remedy: choose from {', '.join(VARIANTS)}")
    options.variants = installed(options.variants or list(VARIANTS))
    options.path = options.path or [path for path in PATHS if path not in IN_MEMORY]
    return options


def _setting(options: argparse.Namespace) -> str:
    packages = ("fastapi", "sqlalchemy", "opentelemetry-sdk", "opentelemetry-instrumentation-fastapi", "uvicorn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    database = options.dsn.partition("://")[0] if options.dsn else "sqlite+aiosqlite"
    load = "wrk" if shutil.which("wrk") else "benchmarks.load"
    return f"Python {platform.python_version()}, {versions}; {database}; load by {load}, {CLIENTS} clients"


@dataclass(frozen=True, slots=True)
class Bench:
    """The database and the collector of the apps, and the seconds of load for each."""

    setting: Setting
    seconds: float

    def run(self, variants: Sequence[str], paths: Sequence[str], number: int) -> Rounds:
        """Measure every variant on every path, `number` times. All servers run, but only one at a time has load."""
        rounds: Rounds = {variant: {path: [] for path in paths} for variant in variants}
        with ExitStack() as stack:
            servers = {variant: stack.enter_context(_server(variant, self.setting)) for variant in variants}
            for index in range(number):
                for path in paths:
                    for variant, url in servers.items():
                        _progress(f"round {index + 1} of {number}: {path} {variant}")
                        rounds[variant][path].append(self._measure(variant, url, path))
            _progress("")
        return rounds

    def _measure(self, variant: str, url: str, path: str) -> dict[str, float]:
        self._load(url + PATHS[path], _WARM_UP)
        before, spans = _usage(url), self._spans(variant)
        outcome = self._load(url + PATHS[path], self.seconds)
        after = _usage(url)
        served = after["served"] - before["served"]
        return {
            "us": (after["cpu"] - before["cpu"]) / served * 1e6,
            "p99_ms": outcome.p99 * 1e3,
            "rate": outcome.rate,
            "peak_mib": after["peak_mib"],
            "spans": (self._spans(variant) - spans) / served,
        }

    def _load(self, url: str, seconds: float) -> Outcome:
        outcome = drive(url, connections=CLIENTS, seconds=seconds, prefix=_on_cpu(1))
        if outcome.failed:
            sys.exit(
                f"{outcome.failed} of {outcome.requests} requests for {url} failed; the output of its server is above"
            )
        return outcome

    def _spans(self, variant: str) -> int:
        """Spans that the variant has delivered so far."""
        spans: int = _json(self.setting.otlp).get(variant, 0)
        return spans


def _usage(url: str) -> dict[str, float]:
    """Return the usage of a server, once it has finished requests that the load generator no longer waits for."""
    served = -1.0
    while True:
        usage: dict[str, float] = _json(url + USAGE)
        if usage["served"] == served:
            return usage
        served = usage["served"]
        time.sleep(_SETTLE)


def _table(path: str, figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    head = (path, "us/request", "added", "ratio", "p99 ms", "requests/s", "peak MiB", "spans/request")
    rows = []
    for variant, cost, added, ratio in table.additions({variant: row["us"] for variant, row in figures.items()}):
        row = figures[variant]
        costs = (table.number(cost), table.number(added, sign=True), table.number(ratio, 2))
        others = (f"{row['p99_ms']:.1f}", f"{row['rate']:.0f}", f"{row['peak_mib']:.0f}", f"{row['spans']:.2f}")
        rows.append((variant, *costs, *others))
    yield from table.lines(head, rows)


@contextmanager
def otlp_sink() -> Iterator[str]:
    """Run an OTLP receiver; yield its base URL."""
    command = [*_on_cpu(1), sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@contextmanager
def _server(variant: str, setting: Setting) -> Iterator[str]:
    """Run the app of a variant under uvicorn; yield its base URL."""
    port = _free_port()
    uvicorn = ["uvicorn", "--factory", "benchmarks.variants:from_environment", "--port", str(port)]
    quiet = ["--no-access-log", "--log-level", "warning"]
    environ = environment(variant, setting)
    command = [*_on_cpu(0), sys.executable, "-m", *uvicorn, *quiet]
    with subprocess.Popen(command, cwd=_ROOT, env=environ) as process:
        try:
            _await(f"http://127.0.0.1:{port}", process, variant)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process)


def _await(url: str, process: "subprocess.Popen[bytes]", variant: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _json(url + USAGE)
        except URLError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"The server of {variant} did not start (exit code {process.poll()})")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()


def _json(url: str) -> Any:
    with build_opener(ProxyHandler({})).open(url, timeout=60) as answer:
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _on_cpu(number: int) -> list[str]:
    """Return the prefix of a command that binds it to one of two CPUs, or nothing if that is not possible."""
    if not shutil.which("taskset") or not hasattr(os, "sched_getaffinity"):
        return []
    cpus = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", str(cpus[number])] if len(cpus) > 1 else []


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
