"""Tracing opened like in `setup_telemetry`, with access to its metrics."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import trace

from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import Settings
from otel_fastperf.tracing import Tracing, open_tracing


@dataclass
class Opened:
    """An open tracing."""

    tracing: Tracing
    metrics: Metrics
    failures: list[str] = field(default_factory=list)
    close: Callable[[], None] = lambda: None

    def emit(self, number: int, name: str = "span") -> None:
        """End that many spans of our tracer."""
        for _ in range(number):
            self.tracing.tracer.start_span(name).end()

    @property
    def outcomes(self) -> dict[str, int]:
        """`fastperf_spans_total` by outcome, without those that are 0."""
        (family,) = (each for each in self.metrics.registry.collect() if each.name == "fastperf_spans")
        samples = (each for each in family.samples if each.name.endswith("_total"))
        return {each.labels["outcome"]: int(each.value) for each in samples if each.value}

    @property
    def queued(self) -> int:
        """`fastperf_spans_queued`, as the next scrape would show it."""
        assert not list(self.metrics.refresh())
        return int(self.metrics.registry.get_sample_value("fastperf_spans_queued") or 0)

    @property
    def failing_seconds(self) -> float:
        """`fastperf_export_failing_seconds`, as the next scrape would show it."""
        assert not list(self.metrics.refresh())
        return self.metrics.registry.get_sample_value("fastperf_export_failing_seconds") or 0.0

    @property
    def accounted(self) -> int:
        """The number of spans that the metrics account for."""
        return sum(self.outcomes.values()) + self.queued


Open = Callable[..., Opened]


@pytest.fixture
def open_it() -> Iterator[Open]:
    """Open tracing, and close it at the end of the test at the latest."""
    with ExitStack() as stack:

        def open_it(
            endpoint: str = "", *, given: Any = None, settings: dict[str, Any] | None = None, **traces: Any
        ) -> Opened:
            traces = {"base_endpoint": endpoint, "delay_ms": 50, "exit_timeout": 1.0} | traces
            one = stack.enter_context(ExitStack())
            metrics = Metrics()
            failures: list[str] = []
            arguments = {"service_name": "shop", "traces": traces} | (settings or {})
            opening = open_tracing(Settings(**arguments), metrics, Guard(failures.append), given=given)
            return Opened(one.enter_context(opening), metrics, failures, one.close)

        yield open_it


@pytest.fixture(autouse=True)
def _no_global_provider() -> Iterator[None]:
    """Check that each test starts without a global provider and leaves none."""
    assert trace._TRACER_PROVIDER is None
    yield
    left, trace._TRACER_PROVIDER = trace._TRACER_PROVIDER, None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()
    assert left is None, "the test left a global TracerProvider"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """All log lines so far: `WARNING otel_fastperf: …`, of every logger."""
    caplog.set_level(logging.INFO)
    return lambda: [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


Log = Callable[[], list[str]]
