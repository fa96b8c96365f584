"""`python -m demo` like a user runs it: it drives the shop, prints the telemetry, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pytest

from demo.capture import Capture
from demo.catalogue import CATALOGUE, Also
from demo.scrapes import Page, Window
from demo.summary import summary
from demo.twins import REQUESTS, STATEMENTS, Twins, measured_twins
from otel_fastperf.report.formatting import TIMES, Paint
from tests.postgresql import postgresql_url
from tests.serving import ROOT, free_port, wait_until

__all__ = ["postgresql_url"]

#: on a busy machine a run lasts until each bottleneck was visited
pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Run:
    """A finished run."""

    output: str
    capture: Capture
    window: Window
    leftovers: list[str]


class Demo:
    """`python -m demo` as a child process with its temporary files in `temporary`."""

    def __init__(self, *arguments: str, temporary: Path, **environ: str) -> None:
        self.temporary = temporary
        self._log = temporary.with_name(f"{temporary.name}.log")
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), **environ}
        command = [sys.executable, "-m", "demo", *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=ROOT)

    @property
    def output(self) -> str:
        """The output so far."""
        return self._log.read_text()

    def finish(self, number: int | None = None, *, seconds: float = 240.0) -> int:
        """Send the signal, if given, wait for the process to exit, and return its exit code."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()

    @property
    def leftovers(self) -> list[str]:
        """Files that the process did not remove."""
        return [path.name for path in self.temporary.iterdir()]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole demo, once per database."""
    temporary, saved = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("saved") / "capture.json"
    environ = {}
    if request.param == "postgresql":
        environ["DATABASE_URL"] = request.getfixturevalue("postgresql_url")
    demo = Demo("--seconds", "24", "--save", str(saved), temporary=temporary, **environ)
    assert demo.finish() == 0, demo.output
    capture = Capture.from_json(saved.read_text())
    first, last = capture.scrapes[0], capture.scrapes[-1]
    window = Window([first[0], last[0]], [Page(first[1]), Page(last[1])])
    return Run(demo.output, capture, window, demo.leftovers)


def test_the_demo_prints_every_section_in_a_hundred_columns_and_leaves_no_file(run: Run) -> None:
    for heading in ("Requests", "Bottlenecks", "Slowest traces", "Event loop", "Thread pool", "Database", "Memory"):
        assert re.search(f"^{heading}", run.output, re.MULTILINE), run.output
    assert max(map(len, run.output.splitlines())) <= 100
    assert "\x1b" not in run.output
    assert run.leftovers == []


def test_the_service_counted_the_requests_of_its_client_by_route(run: Run) -> None:
    counted = {
        f"{method} {route}": histogram.count
        for (method, route), histogram in run.window.histograms(REQUESTS, "http_request_method", "http_route").items()
    }
    assert counted == run.capture.sent
    assert "its client counted the same" in run.output


def test_the_faulty_endpoints_show_in_the_metrics(run: Run) -> None:
    statements = run.window.histograms(STATEMENTS, "http_route")
    faulty, fixed = statements["/slow/n-plus-one",].mean, statements["/fast/n-plus-one",].mean
    assert (faulty, fixed) == (51.0, 2.0)
    lag = run.window.histogram("fastperf_event_loop_lag_seconds").highest
    assert lag is not None
    assert lag.value >= 0.1
    waits = run.window.histograms("db_client_connection_wait_time_seconds", "db_client_connection_pool_name")
    # a batch of the faulty endpoint waits for a quarter of a second, and a busy machine has time for one round only
    assert waits["long_checkouts",].sum > 0.05


def test_each_bottleneck_is_in_the_table_beside_its_fixed_twin(run: Run) -> None:
    pairs = list(measured_twins(run.capture, run.window))
    assert [pair.bottleneck for pair in pairs] == list(CATALOGUE)
    for pair in pairs:
        line = rf"^{pair.bottleneck.name} .*{re.escape(pair.also)} .*{pair.bottleneck.fault}$"
        assert re.search(line, run.output, re.MULTILINE), run.output
        assert bool(pair.also) == (pair.bottleneck.also is not Also.NOTHING)


def test_each_fixed_twin_is_visibly_better_in_the_table(run: Run) -> None:
    better = {pair.bottleneck.name: visibly_better(run, pair) for pair in measured_twins(run.capture, run.window)}
    by_itself = {one.name for one in CATALOGUE if one.also in {Also.STATEMENTS, Also.HITS, Also.KEPT}}
    wrong = {name for name, is_better in better.items() if not is_better}
    assert not wrong & by_itself
    # a busy machine delays one or the other; `test_bottlenecks` compares the best of several times
    assert len(wrong) <= 3, (wrong, run.output)


def visibly_better(run: Run, pair: Twins) -> bool:
    if pair.bottleneck.also is Also.NOTHING:
        slow, fast = (median_of(run, path) for path in (pair.bottleneck.faulty, pair.bottleneck.fixed))
        return slow > 1.2 * fast
    assert pair.worse is not None
    assert pair.better is not None
    if pair.bottleneck.also is Also.HITS:
        return pair.better > 0.5 and not pair.worse
    return pair.worse > 1.5 * pair.better


def median_of(run: Run, path: str) -> float:
    return median(span.seconds for span in run.capture.spans if (span.kind, span.name) == ("SERVER", f"GET {path}"))


def test_the_repeated_statement_is_folded_in_its_waterfall(run: Run) -> None:
    assert re.search(rf"GET /slow/n-plus-one .*\n.*SELECT orders .*\n +SELECT items {TIMES}50 +▒+", run.output), (
        run.output
    )


def test_health_checks_and_telemetry_routes_do_not_count_as_traffic(run: Run) -> None:
    own = {"/health", "/demo/spans", "/metrics"}
    assert not {span.name for span in run.capture.spans} & {f"GET {path}" for path in own}
    assert not {route for (route,) in run.window.histograms(REQUESTS, "http_route")} & own


def test_telemetry_counted_no_errors(run: Run) -> None:
    assert re.search(r"own errors +none$", run.output, re.MULTILINE), run.output


def test_the_summary_depends_on_the_capture_only(run: Run) -> None:
    assert summary(run.capture, Paint(colour=False)) in run.output
    coloured = summary(run.capture, Paint(colour=True))
    assert re.sub(r"\x1b\[\d+m", "", coloured) in run.output


@dataclass(frozen=True)
class Serving:
    """`python -m demo serve`, running and under load."""

    demo: Demo
    url: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    port = free_port()
    demo = Demo("serve", "--port", str(port), temporary=tmp_path)
    try:
        wait_until(lambda: _answers(port) or demo.process.poll() is not None, seconds=60, what="the demo answers")
        yield Serving(demo, f"http://127.0.0.1:{port}")
    finally:
        if demo.process.poll() is None:
            demo.finish(signal.SIGTERM, seconds=30)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_until_a_signal_and_leaves_nothing(serving: Serving, number: signal.Signals) -> None:
    wait_until(lambda: f"{REQUESTS}_count" in serving.get("/metrics").text, what="shoppers come")

    assert serving.demo.finish(number, seconds=30) == 0, serving.demo.output
    assert serving.demo.output.endswith("\nStopped.\n")
    assert "Traceback" not in serving.demo.output
    assert serving.demo.leftovers == []
    with pytest.raises(httpx.ConnectError):
        serving.get("/health")


def test_an_interrupted_run_reports_it_without_a_traceback(tmp_path: Path) -> None:
    demo = Demo("--seconds", "60", temporary=tmp_path)
    wait_until(lambda: "Metrics" in demo.output, seconds=60, what="the shop runs")
    assert demo.finish(signal.SIGINT, seconds=30) == 130
    assert demo.output.endswith("\nStopped.\n")
    assert "Traceback" not in demo.output
    assert demo.leftovers == []


def test_a_port_in_use_is_named_in_the_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = Demo("--port", str(port), temporary=tmp_path)
        assert demo.finish() == 1
    assert demo.output == f"Port {port} cannot be used: Address already in use. Remedy: choose another --port.\n"


def test_an_unreachable_database_is_named_in_the_error(tmp_path: Path) -> None:
    demo = Demo(temporary=tmp_path, DATABASE_URL=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert demo.finish() == 1
    assert demo.output.startswith("The database cannot be used: connection ")
    assert "Traceback" not in demo.output


def test_the_log_of_a_service_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    demo = Demo(temporary=tmp_path, OTEL_FASTPERF_METRICS_PATH="metrics")
    assert demo.finish() == 1
    assert "The service exited with code 1. The end of its log:" in demo.output
    assert "must be a path that starts with /" in demo.output


def test_the_catalogue_has_every_kind_of_bottleneck() -> None:
    assert {bottleneck.kind for bottleneck in CATALOGUE} == {
        "blocking_call",
        "sync_db_on_loop",
        "n_plus_one",
        "slow_query",
        "large_result",
        "lock_wait",
        "slow_commit",
        "pool_wait",
        "threadpool_wait",
        "slow_middleware",
        "memory_growth",
        "gc_pause",
        "cache_inefficient",
        "slow_dependency",
        "serial_calls",
        "client_per_request",
    }
    assert all(len(bottleneck.fault) <= 35 for bottleneck in CATALOGUE)
