"""A closed-loop load generator: each client sends its next request when the last one is answered.

`drive` uses `wrk` if it is installed, else the program below, which prints `Outcome` as JSON:

python -m benchmarks.load http://127.0.0.1:8000/ping --connections 8 --seconds 3
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The clients' results. Durations are in seconds."""

    requests: int
    failed: int
    seconds: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def drive(url: str, *, connections: int, seconds: float, prefix: Sequence[str] = ()) -> Outcome:
    """Put load on a URL from a separate process; `prefix` is a command that starts it (`taskset -c 1`)."""
    # wrk accepts whole seconds only
    if shutil.which("wrk") and seconds == int(seconds):
        wrk = ["wrk", "-t1", f"-c{connections}", f"-d{int(seconds)}s", "--latency", url]
        return of_wrk(_run([*prefix, *wrk]))
    own = [sys.executable, "-m", "benchmarks.load", url, f"--connections={connections}", f"--seconds={seconds}"]
    return Outcome(**json.loads(_run([*prefix, *own])))


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def of_wrk(output: str) -> Outcome:
    """Parse the output of `wrk --latency`."""
    requests, amount, unit = _found(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", output)
    p99, p99_unit = _found(r"99%\s+([\d.]+)(us|ms|s)", output)
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    errors = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed += sum(int(number) for row in errors for number in row)
    seconds = float(amount) * (60.0 if unit == "m" else _SECONDS[unit])
    return Outcome(int(requests), failed, seconds, float(p99) * _SECONDS[p99_unit])


def _found(pattern: str, output: str) -> tuple[str, ...]:
    match = re.search(pattern, output)
    if match is None:
        message = f"The output of wrk has an unknown form:\n{output}"
        raise ValueError(message)
    return match.groups()


async def _drive(url: str, connections: int, seconds: float) -> Outcome:
    started = time.perf_counter()
    clients = await asyncio.gather(*(_client(url, started + seconds) for _ in range(connections)))
    durations = [duration for duration, _ in (request for client in clients for request in client)]
    failed = sum(not good for client in clients for _, good in client)
    # "inclusive" also works for a few requests
    p99 = statistics.quantiles(durations, n=100, method="inclusive")[-1] if len(durations) > 1 else 0.0
    return Outcome(len(durations), failed, time.perf_counter() - started, p99)


async def _client(url: str, until: float) -> list[tuple[float, bool]]:
    """Send requests on one connection until one fails; return the duration of each, and whether its status was 2xx."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    seen = []
    while (started := time.perf_counter()) < until:
        writer.write(request)
        try:
            good = await _read(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            good = False
        seen.append((time.perf_counter() - started, good))
        if not good:
            break
    writer.close()
    return seen


async def _read(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or b"0"))
    return head.startswith(b"http/1.1 2")


def main() -> None:
    """Run the load generator and print the outcome."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(_drive(options.url, options.connections, options.seconds)))))


if __name__ == "__main__":
    main()
