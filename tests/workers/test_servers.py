"""One scrape and one report answer for all workers of real servers, over restarts, kills and blocks."""

import importlib.util
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Command, free_port, run_server, wait_until

UVICORN = ["uvicorn", "tests.service:app", "--port", "{port}", "--workers", "2"]
GUNICORN = ["gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "tests.service:app"]
SERVERS = {
    "uvicorn": UVICORN,
    "fastapi": ["fastapi", "run", "tests/service.py", "--port", "{port}", "--workers", "2"],
    "gunicorn with uvicorn's worker": [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker"],
    "gunicorn --preload": [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "--preload"],
    "gunicorn -k asgi": [*GUNICORN, "-k", "asgi"],
    "granian": ["granian", "--interface", "asgi", "--workers", "2", "--port", "{port}", "tests.service:app"],
    "hypercorn": ["hypercorn", "-w", "2", "-b", "127.0.0.1:{port}", "tests.service:app"],
}

REQUESTS = "http_server_request_duration_seconds_count"


class Service:
    """A running server with two workers."""

    def __init__(self, server: Command, runtime: Path) -> None:
        self.server = server
        self.runtime = runtime

    def page(self, accept: str = "") -> str:
        """The page of whichever worker answers."""
        return self.server.get("/metrics", headers={"accept": accept}).text

    def count(self, name: str, page: str | None = None) -> float:
        """The sum of a metric over its labels."""
        lines = re.findall(rf"^{name}(?:{{.*}})? (\S+)", self.page() if page is None else page, re.MULTILINE)
        return sum(map(float, lines))

    def ask(self, number: int) -> None:
        """Send requests that succeed."""
        for item in range(number):
            assert self.server.get(f"/items/{item}").status == 200

    def report(self) -> dict[str, Any]:
        """The report of whichever worker answers."""
        report: dict[str, Any] = json.loads(self.server.get("/debug/fastperf").text)
        return report

    def pids(self) -> dict[int, float | None]:
        """The workers, and for how long each has been silent."""
        return {worker["pid"]: worker["silent_seconds"] for worker in self.report()["workers"]}

    def files(self) -> list[Path]:
        """What lies in the family's folder."""
        return [path for path in self.runtime.glob("otel_fastperf-*/*/*") if not path.is_dir()]

    def wait(self, workers: int = 2) -> None:
        """Until this number of workers live."""
        wait_until(lambda: self._lives(workers), seconds=60, what=f"{workers} workers")

    def _lives(self, workers: int) -> bool:
        # scrapes count for --max-requests too: a worker that reaches it may reset connections
        with suppress(ConnectionError):
            return self.count("fastperf_workers") == workers
        return False


@contextmanager
def service(command: list[str], folder: Path, **environment: str) -> Iterator[Service]:
    if importlib.util.find_spec(command[0]) is None or ("asgi" in command and not has_asgi_worker(command)):
        pytest.skip(f"{command[0]} is not installed, or too old")
    runtime = folder / "run"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime), "OTEL_SERVICE_NAME": "shop", **environment}
    with run_server(command, log=folder / "log", environment=environment) as server:
        running = Service(server, runtime)
        running.wait()
        yield running


def has_asgi_worker(command: list[str]) -> bool:
    return command[0] != "gunicorn" or importlib.util.find_spec("gunicorn.workers.gasgi") is not None


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS.keys())
def test_every_worker_answers_for_all(command: list[str], tmp_path: Path) -> None:
    with service(command, tmp_path) as running:
        before = running.count(REQUESTS)
        running.ask(30)
        pages = [running.page() for _ in range(4)]
        assert {running.count(REQUESTS, page) for page in pages} == {before + 30}
        assert len(re.findall(r'^process_resident_memory_bytes{worker="[01]"} ', pages[0], re.MULTILINE)) == 2
        pids = running.pids()
        assert list(pids.values()) == [None, None]
        (route,) = [route for route in running.report()["routes"] if route["route"] == "/items/{item_id}"]
        assert route["requests"] >= 30
        assert len(running.files()) <= 3
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in running.files()} == {0o700}


def test_nothing_falls_when_workers_are_killed(tmp_path: Path) -> None:
    with service(UVICORN, tmp_path) as running:
        running.ask(20)
        known = running.count(REQUESTS)
        assert known >= 20
        for _ in range(3):
            pid = next(iter(running.pids()))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda gone=pid: gone not in pids_of(running), what="the worker has ended")
            running.wait()
            assert running.count(REQUESTS) >= known
            assert len(running.files()) <= 3


def pids_of(running: Service) -> set[int]:
    try:
        return set(running.pids())
    except OSError:  # the connection was the killed worker's
        return set(range(1))


def test_recycled_workers_leave_all_that_they_have_counted(tmp_path: Path) -> None:
    command = [*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "--max-requests", "25"]
    with service(command, tmp_path) as running:
        statuses = {200: 0, 404: 0}
        first = {status: of_status(running, status) for status in statuses}
        while sum(statuses.values()) < 60:
            for path, status in (("/items/1", 200), ("/nowhere", 404)):
                try:
                    assert running.server.get(path).status == status
                except OSError:  # the connection was queued at a worker that was ending
                    continue
                statuses[status] += 1
        counts = {status: of_status(running, status) - before for status, before in first.items()}
        assert counts == statuses
        assert len(running.files()) <= 3


def of_status(running: Service, status: int) -> float:
    lines = [line for line in scrape(running).splitlines() if line.startswith(REQUESTS) and f'"{status}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def scrape(running: Service) -> str:
    while True:
        try:
            return running.page()
        except OSError:
            continue


def test_a_stopped_worker_is_named_and_its_port_is_taken_over_when_it_ends(tmp_path: Path) -> None:
    port = free_port()
    with service_on_port(port, tmp_path) as running:
        running.ask(10)
        known = running.count(REQUESTS)
        stopped, owner = split(running, port)
        os.kill(stopped, signal.SIGSTOP)
        started = time.monotonic()
        page = running.page()
        seconds = time.monotonic() - started
        assert running.count("fastperf_workers_silent", page) == 1
        assert running.count("fastperf_workers", page) == 2
        assert running.count(REQUESTS, page) >= known
        # the bound of 1 s holds on an idle machine: `python -m benchmarks.workers`
        assert seconds < 5
        os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: running.count("fastperf_workers_silent") == 0, what="it answers again")
        os.kill(owner, signal.SIGKILL)
        wait_until(lambda: answers(running), what="another worker serves the port")
        assert running.count(REQUESTS) >= known


class OnPort(Service):
    """Its metrics have a port of their own."""

    def __init__(self, server: Command, runtime: Path, port: int) -> None:
        super().__init__(server, runtime)
        self.metrics = Command(port, server.process, server.log)

    def page(self, accept: str = "") -> str:
        return self.metrics.get("/metrics", headers={"accept": accept}).text


@contextmanager
def service_on_port(port: int, folder: Path) -> Iterator[Service]:
    runtime = folder / "run"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime), "OTEL_FASTPERF_METRICS_PORT": str(port)}
    with run_server(UVICORN, log=folder / "log", environment=environment) as server:
        running = OnPort(server, runtime, port)
        wait_until(lambda: answers(running), seconds=60, what="the port is served")
        running.wait()
        yield running


def answers(running: Service) -> bool:
    try:
        return bool(running.page())
    except OSError:
        return False


def split(running: Service, port: int) -> tuple[int, int]:
    """The worker that does not serve the port, and the one that does."""
    inode = next(
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    )
    owners = {
        pid: f"socket:[{inode}]" in {target(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        for pid in running.pids()
    }
    (owner,) = [pid for pid, is_owner in owners.items() if is_owner]
    (other,) = [pid for pid, is_owner in owners.items() if not is_owner]
    return other, owner


def target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def test_exemplars_of_all_workers_are_on_the_page(tmp_path: Path) -> None:
    with service(UVICORN, tmp_path) as running:
        running.ask(4)
        page = running.page("application/openmetrics-text; version=1.0.0")
        assert re.search(rf'^{REQUESTS[:-6]}_bucket{{.*}} \S+ # {{span_id="\w+",trace_id="\w+"}}', page, re.MULTILINE)
        assert page.endswith("# EOF\n")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing more can be written."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "full"
    folder.mkdir()
    command = ("mount", "-t", "tmpfs", "-o", "size=64k", "none", folder)
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr}")
    try:
        with pytest.raises(OSError, match="No space"):
            (folder / "filling").write_bytes(bytes(128 * 1024))
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", folder), check=True)


@pytest.mark.parametrize("folder", ["set", "missing", "", "a file", "full"])
def test_the_folder_of_prometheus_client_makes_no_difference(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = {"set": tmp_path / "set", "missing": tmp_path / "nowhere", "": "", "a file": tmp_path / "log"}
    (tmp_path / "set").mkdir()
    told = str(where[folder] if folder in where else request.getfixturevalue(folder))
    with service(UVICORN, tmp_path, PROMETHEUS_MULTIPROC_DIR=told) as running:
        before = running.count(REQUESTS)
        running.ask(10)
        pages = [running.page("application/openmetrics-text; version=1.0.0") for _ in range(4)]
        assert [running.count(REQUESTS, page) for page in pages] == [before + 10] * 4
        assert "process_resident_memory_bytes" in pages[0]
        assert '# {span_id="' in pages[0]
        assert sorted(path.name for path in (tmp_path / "set").iterdir()) == []


def test_without_space_for_the_workers_files_requests_and_scrapes_are_answered(full: Path, tmp_path: Path) -> None:
    with run_server(UVICORN, log=tmp_path / "log", environment={"XDG_RUNTIME_DIR": str(full)}) as server:
        running = Service(server, full)
        running.ask(10)
        assert running.count(REQUESTS) > 0
        assert running.count("fastperf_telemetry_errors_total") > 0
        assert running.report()["routes"]


def test_switched_off_each_worker_answers_for_itself(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    environment = {"XDG_RUNTIME_DIR": str(runtime), "OTEL_FASTPERF_WORKERS_ENABLED": "false"}
    with run_server(UVICORN, log=tmp_path / "log", environment=environment) as server:
        running = Service(server, runtime)
        assert running.count("fastperf_workers") == 1
        assert running.report()["workers"] == []
        assert running.files() == []


def test_a_service_in_one_process_has_no_files_and_no_label(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with run_server(UVICORN[:4], log=tmp_path / "log", environment={"XDG_RUNTIME_DIR": str(runtime)}) as server:
        running = Service(server, runtime)
        running.ask(3)
        page = running.page()
        assert running.count(REQUESTS, page) == 3
        assert running.count("fastperf_workers", page) == 1
        assert "worker=" not in page
        assert list(runtime.iterdir()) == []
