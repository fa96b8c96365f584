"""Drills many workers. Is anything lost or counted twice, does a counter fall, how long does a scrape take.

python -m benchmarks.workers recycle    10,000 requests while workers are recycled: counts are exact, by status
python -m benchmarks.workers kill       50 SIGKILLs at random while requests run: no counter falls
python -m benchmarks.workers many       16 workers x 50 routes: duration of scrapes, also with one worker stopped
python -m benchmarks.workers crowd      50 scrapers at once at 20,000 series: what the app's requests feel
"""

import http.client
import os
import random
import re
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Response

from otel_fastperf import setup_telemetry
from tests.serving import Command, free_port, run_server, wait_until

ROUTES: Final = 50
SERIES: Final = 20_000
#: lines of one label set of the metric that is filled
LINES: Final = 17

REQUESTS: Final = "http_server_request_duration_seconds_count"
WORKERS: Final = "fastperf_workers"
SILENT: Final = "fastperf_workers_silent"

#: clients that read a page at once
READERS: Final = 50

DICE: Final = random.Random(11)  # noqa: S311 - it chooses what is killed

app = FastAPI()
telemetry = setup_telemetry(app)


@app.get("/status/{code}")
async def status(code: int) -> Response:
    """A response with this status."""
    return Response(status_code=code)


@app.get("/blob/{size}")
async def blob(size: int) -> Response:
    """So many bytes."""
    return Response(b" " * size)


def route(number: int) -> Callable[[], object]:
    """An endpoint."""

    async def endpoint() -> int:
        return number

    return endpoint


for count in range(ROUTES):
    app.get(f"/route{count}/{{item}}")(route(count))

if os.environ.get("FILLED"):
    for count in range(SERIES // LINES):
        telemetry.metrics.request_duration.child("GET", f"/filled/{count}", "200", "", "http").observe(0.01)


class Client:
    """Asks a server on new connections, each of which the kernel gives to any worker."""

    def __init__(self, server: Command, port: int | None = None) -> None:
        self.server = server
        self.port = port or server.port

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; waits for as long as nobody listens."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except ConnectionRefusedError:
                time.sleep(0.01)
            finally:
                connection.close()

    def page(self) -> dict[str, float]:
        """Values by name and labels."""
        lines = (line.rpartition(" ") for line in self.get("/metrics")[1].splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def workers(self) -> list[int]:
        """The server's children that answer requests."""
        children = Path(f"/proc/{self.server.process.pid}/task/{self.server.process.pid}/children").read_text()
        living = ((pid, command(pid)) for pid in map(int, children.split()))
        return [pid for pid, told in living if told and b"resource_tracker" not in told]


def command(pid: int) -> bytes:
    """Its command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def serving(*command: str, workers: int, **environment: str) -> Iterator[tuple[Client, Path]]:
    """Run a server, and wait for its workers."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = Path(folder) / "run"
        runtime.mkdir()
        environment = {"XDG_RUNTIME_DIR": str(runtime), "OTEL_SERVICE_NAME": "drill", **environment}
        with run_server(
            [*command, "benchmarks.workers:app"], log=Path(folder) / "log", environment=environment
        ) as server:
            client = Client(server, int(environment.get("OTEL_FASTPERF_METRICS_PORT", 0)) or None)
            wait_until(lambda: client.page().get(WORKERS) == workers, seconds=200, what=f"{workers} workers")
            client.port = server.port
            yield client, runtime
            server.stop()


def files(runtime: Path) -> int:
    """How many files the workers have."""
    return sum(not path.is_dir() for path in runtime.glob("otel_fastperf-*/*/*"))


def without_worker(runtime: Path) -> int:
    """How many of them belong to no living worker, `ended` included: their locks are free."""
    inodes = [path.stat().st_ino for path in runtime.glob("otel_fastperf-*/*/*") if not path.is_dir()]
    locked = {int(line.split()[5].rpartition(":")[2]) for line in Path("/proc/locks").read_text().splitlines()}
    return sum(inode not in locked for inode in inodes)


def by_status(page: dict[str, float]) -> Counter[str]:
    """Requests for `/status` by status."""
    sums: Counter[str] = Counter()
    for name, value in page.items():
        found = re.search(r'response_status_code="(\d+)",http_route="/status/{code}"', name)
        if name.startswith(REQUESTS) and found:
            sums[found[1]] += round(value)
    return sums


def recycle(requests: int = 10_000, recycles: int = 200) -> None:
    """Counts are exact over graceful ends."""
    gunicorn = ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--preload", "-w", "2", "-b", "127.0.0.1:{port}")
    sent: Counter[str] = Counter()
    with serving(*gunicorn, "--max-requests", str(requests // recycles), workers=2) as (client, runtime):
        pids, most = set[int](), 0
        while sent.total() < requests:
            code = DICE.choice((200, 201, 404, 503))
            try:
                told, _ = client.get(f"/status/{code}")
            except OSError:
                # gunicorn closes connections that wait at a worker that ends: no request has been read
                continue
            sent[str(told)] += 1
            if not sent.total() % 25:
                pids.update(client.workers())
                most = max(most, files(runtime))
        wait_until(lambda: client.page()[WORKERS] == 2, what="both workers live")  # noqa: PLR2004
        counted = by_status(client.page())
        print(f"sent {dict(sent)}\ncounted {dict(counted)}\nexact: {sent == counted}")
        print(f"{len(pids)} workers were seen; at most {most} files")


class Watch:
    """Sees whether a counter falls."""

    def __init__(self) -> None:
        self.fallen: set[str] = set()
        self._highest: dict[str, float] = {}

    def see(self, page: dict[str, float]) -> None:
        """Compare a page with those before."""
        for name, value in page.items():
            if re.search(r"_(total|count|sum|bucket)(?:{|$)", name) and "connection_count" not in name:
                if value < self._highest.get(name, 0.0) - 1e-6:
                    self.fallen.add(f"{name} {self._highest[name]} -> {value}")
                self._highest[name] = max(value, self._highest.get(name, 0.0))


def load(client: Client, over: threading.Event, sent: Counter[str]) -> None:
    """Send requests until it is over."""
    while not over.is_set():
        try:
            sent[str(client.get("/status/200")[0])] += 1
        except (OSError, http.client.HTTPException):
            sent["lost"] += 1


def kill(kills: int = 50) -> None:
    """No counter falls over SIGKILLs."""
    uvicorn = ("uvicorn", "--port", "{port}", "--workers", "4", "--log-level", "critical")
    with serving(*uvicorn, workers=4) as (client, runtime):
        over, sent = threading.Event(), Counter[str]()
        threads = [threading.Thread(target=load, args=(client, over, sent), daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        watch, most = Watch(), 0
        for _ in range(kills):
            killed = DICE.choice(wait_until(client.workers))
            os.kill(killed, signal.SIGKILL)
            watched(client, watch, 3)
            wait_until(lambda pid=killed: pid not in client.workers(), what="the worker has ended")
            watched(client, watch, 1)
            most = max(most, without_worker(runtime))
        over.set()
        for thread in threads:
            thread.join()
        print(f"{kills} kills, {dict(sent)}; counted {dict(by_status(client.page()))}")
        print(f"fallen: {sorted(watch.fallen) or 'none'}; at most living + {most} files")


def watched(client: Client, watch: Watch, number: int) -> None:
    """Scrape so many times; a scrape whose worker is killed does not count."""
    while number:
        try:
            watch.see(client.page())
        except (OSError, http.client.HTTPException):
            continue
        number -= 1


def many(workers: int = 16, scrapes: int = 40) -> None:
    """How long a scrape takes."""
    # preloaded: 16 imports at once take minutes on a small machine
    gunicorn = (
        "gunicorn",
        "-k",
        "uvicorn_worker.UvicornWorker",
        "--preload",
        "-w",
        str(workers),
        "-b",
        "127.0.0.1:{port}",
    )
    port = free_port()
    with serving(*gunicorn, "--timeout", "300", workers=workers, OTEL_FASTPERF_METRICS_PORT=str(port)) as (client, _):
        for number in range(ROUTES * 60):
            client.get(f"/route{number % ROUTES}/1")
        client.port = port
        lines = len(client.page())
        before = cpu(client.workers())
        print(f"{workers} workers, {ROUTES} routes, {lines} lines: {spread(timed(client, scrapes))}")
        print(f"{(cpu(client.workers()) - before) / scrapes * 1000:.1f} ms of CPU per scrape, of all workers together")
        owner = next(pid for pid in client.workers() if listens(pid, port))
        stopped = DICE.choice([pid for pid in client.workers() if pid != owner])
        os.kill(stopped, signal.SIGSTOP)
        print(f"one worker stopped: {spread(timed(client, 5))}")
        print(f"silent: {client.page()[SILENT]:.0f}")
        os.kill(stopped, signal.SIGCONT)


def listens(pid: int, port: int) -> bool:
    """Whether a process listens on a port."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    inodes = {line[9] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "0A"}
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())  # noqa: PTH115
    return any(link == f"socket:[{inode}]" for link in links for inode in inodes)


def timed(client: Client, scrapes: int) -> list[float]:
    """Seconds of each scrape."""
    seconds = []
    for _ in range(scrapes):
        started = time.perf_counter()
        client.get("/metrics")
        seconds.append(time.perf_counter() - started)
        time.sleep(0.2)
    return seconds


def cpu(pids: list[int]) -> float:
    """Seconds that processes have computed."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def quantiles(seconds: list[float]) -> list[float]:
    """The 1st to the 99th percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")


def spread(seconds: list[float]) -> str:
    """Median, 95th and 99th percentile."""
    cuts = quantiles(seconds)
    return ", ".join(f"{name} {cuts[at - 1] * 1000:.1f} ms" for name, at in (("p50", 50), ("p95", 95), ("p99", 99)))


def crowd(rounds: int = 3, seconds: float = 8.0) -> None:
    """What requests feel while many clients read a page at once: the metrics, and as many bytes of the app."""
    found: dict[str, list[float]] = {}
    for workers in (1, 2):
        uvicorn = ("uvicorn", "--port", "{port}", "--workers", str(workers), "--log-level", "critical")
        with serving(*uvicorn, workers=workers, FILLED="1") as (client, _):
            for _, (kind, encoding) in product(range(rounds), (("text", "identity"), ("gzip", "gzip"))):
                size = read_page(client.port, "/metrics", encoding)
                for who, path in (("nobody", ""), ("a page as large", f"/blob/{size}"), ("metrics", "/metrics")):
                    p99 = quantiles(among(client.port, path, encoding, seconds))[98] * 1000
                    found.setdefault(f"{workers} worker(s), {kind}, {who}", []).append(p99)
    for name, each in found.items():
        print(f"{name}: p99 {statistics.median(each):.1f} ms ({', '.join(f'{p99:.1f}' for p99 in each)})")


def among(port: int, path: str, encoding: str, seconds: float) -> list[float]:
    """Durations of requests among 50 readers of a page, in another process."""
    readers = os.fork()
    if readers == 0:
        read_together(port, path, encoding, seconds)
        os._exit(0)
    durations = paced(port, seconds)
    os.waitpid(readers, 0)
    return durations


def paced(port: int, seconds: float, every: float = 0.005) -> list[float]:
    """Durations of requests that are due at fixed times: one that must wait for another is late, too."""
    durations = []
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        time.sleep(max(due - time.perf_counter(), 0.0))
        read_page(port, "/status/200", "identity")
        durations.append(time.perf_counter() - due)
        due += every
    return durations


def read_together(port: int, path: str, encoding: str, seconds: float) -> None:
    """Read a page `READERS` times at once, each second."""
    for _ in range(round(seconds) if path else 0):
        due = time.monotonic() + 1.0
        threads = [threading.Thread(target=read_page, args=(port, path, encoding)) for _ in range(READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(max(due - time.monotonic(), 0.0))


def read_page(port: int, path: str, encoding: str) -> int:
    """Size of the answer; the client takes as little of the machine as it can."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: drill\r\nConnection: close\r\nAccept-Encoding: {encoding}\r\n\r\n".encode()
        )
        buffer, size = bytearray(1 << 18), 0
        while piece := connection.recv_into(buffer):
            size += piece
        return size


DRILLS: Final[dict[str, Callable[..., None]]] = {"recycle": recycle, "kill": kill, "many": many, "crowd": crowd}

if __name__ == "__main__":
    for name in sys.argv[1:] or DRILLS:
        DRILLS[name](*map(int, os.environ.get("DRILL", "").split()))
