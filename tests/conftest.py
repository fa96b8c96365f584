"""Fixtures that every test may use: real parts, an in-memory span exporter, a fresh registry.

Markers are set here by path and fixture. With pytest-xdist, a test marked `timing` runs with no other test beside it,
and tests that share an expensive fixture run in one process.
"""

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from otel_fastperf.findings import Finding
from otel_fastperf.findings_outlet import Findings
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import FindingsSettings
from otel_fastperf.signals import Signals

# How long an example takes says something about the machine only.
settings.register_profile("otel_fastperf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("otel_fastperf")

# Marker -> the tests that get it, by the beginning of their node id.
MARKED: Final = {
    "slow": (
        "tests/demo/",
        "tests/elsewhere/",
        "tests/guest/test_wirings.py",
        "tests/migration/",
        "tests/pytest_plugin/",
        "tests/test_benchmarks.py",
        "tests/test_delivery.py",
        "tests/test_findings_pages.py",
        "tests/test_groups.py",
        "tests/test_main_job.py",
        "tests/tracing/test_exit.py",
        "tests/truth/",
        "tests/workers/test_servers.py",
    ),
    "stack": ("tests/deploy/",),
    "timing": (
        "tests/instrumentation/test_middleware.py",
        "tests/memory/test_allocations.py",
        "tests/monitors/test_loop.py",
        "tests/monitors/test_watchdog.py",
        "tests/sql/test_columns.py::test_reading_columns_takes_linear_time",
        "tests/test_findings_pages.py",
    ),
}
# Fixture that starts a server -> the marker of the tests that use it.
SERVERS: Final = {"postgresql_url": "postgres", "mariadb_url": "mariadb"}

# One process runs all tests of a group: they share a fixture that takes seconds to set up. Each test of the demo puts
# the shop under load, which needs a core to itself.
GROUPS: Final = (
    "tests/demo/",
    "tests/deploy/test_main_job.py",
    "tests/deploy/test_night.py",
    "tests/deploy/test_queries.py",
    "tests/deploy/test_semconv.py",
    "tests/elsewhere/",
    "tests/exposition/test_endpoint.py",
    "tests/guest/test_wirings.py",
    "tests/migration/",
    "tests/test_differential.py",
    "tests/test_main_job.py",
    "tests/truth/",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the markers."""
    for item in items:
        for marker in _markers(item):
            item.add_marker(marker)


def _markers(item: pytest.Item) -> Iterator[str | pytest.MarkDecorator]:
    yield from (marker for marker, beginnings in MARKED.items() if item.nodeid.startswith(beginnings))
    needed = getattr(item, "fixturenames", ())
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    for fixture, marker in SERVERS.items():
        if fixture in needed or fixture.removesuffix("_url") in parameters.values():
            yield marker


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each of `GROUPS` in one process.

    pytest-xdist's marker `xdist_group` has no effect with pytest 9.2: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = group_of
    return scheduling


def group_of(nodeid: str) -> str:
    """The group of a test, or the test itself."""
    return next(filter(nodeid.startswith, GROUPS), nodeid)


# Files to lock: any two files that every process of a run can open.
ROOM: Final = Path(__file__)
DOOR: Final = ROOM.with_name("__init__.py")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Share the machine with the other processes of this run, or keep it for a test that compares durations.

    Both kinds of test lock the door first. A timing test that waits for the room thus keeps new tests out and
    cannot starve. pytest-timeout starts its clock inside this hook, so waiting does not count.
    """
    timing = item.get_closest_marker("timing") is not None
    with _before_other_programs() if timing else nullcontext():
        if not hasattr(item.config, "workerinput"):
            return (yield)
        with ROOM.open() as room, DOOR.open() as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if timing else fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
            try:
                return (yield)
            finally:
                fcntl.flock(room, fcntl.LOCK_UN)  # closing is not enough: a forked child may still have the file open


@contextmanager
def _before_other_programs() -> Iterator[None]:
    """Give this thread, and those and the processes that it starts, a higher priority if the user is allowed to."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (`@pytest.mark.anyio`) run on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the shell's OpenTelemetry variables from every test."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "FASTAPI_OTEL", "PROMETHEUS_")):
            monkeypatch.delenv(name)


def signals_of(tracer: Tracer, metrics: Metrics, guard: Guard) -> Signals:
    """`Signals` with their own findings."""
    return Signals(tracer, metrics, Findings(FindingsSettings(), metrics, guard), guard)


@dataclass
class Probe:
    """Signals to pass to the code under test, with access to what they recorded."""

    signals: Signals
    exporter: InMemorySpanExporter
    failures: list[str] = field(default_factory=list)

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Finished spans, oldest first."""
        return self.exporter.get_finished_spans()

    def findings(self) -> tuple[Finding, ...]:
        """Findings, worst first."""
        return self.signals.findings.log.findings()

    def value(self, name: str, **labels: str) -> float | None:
        """A sample of `/metrics` by its full name (`…_total`, `…_count`, `…_bucket`), or None."""
        return self.signals.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def probe() -> Iterator[Probe]:
    """`Signals` with a tracer provider and a registry for this test only."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    failures: list[str] = []
    signals = signals_of(provider.get_tracer("otel_fastperf"), Metrics(), Guard(failures.append))
    yield Probe(signals, exporter, failures)
    signals.backlog.stop()
    provider.shutdown()
