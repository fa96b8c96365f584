"""Fixtures that every test may use: real parts, an in-memory span exporter, a fresh registry."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
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


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (`@pytest.mark.anyio`) run on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the OpenTelemetry variables of the shell it was started from."""
    import os

    for name in list(os.environ):
        if name.startswith(("OTEL_", "FASTAPI_OTEL", "PROMETHEUS_")):
            monkeypatch.delenv(name)


def signals_of(tracer: Tracer, metrics: Metrics, guard: Guard) -> Signals:
    """`Signals` with findings of their own."""
    return Signals(tracer, metrics, Findings(FindingsSettings(), metrics, guard), guard)


@dataclass
class Probe:
    """Signals to hand to a subject, and what came out of them."""

    signals: Signals
    exporter: InMemorySpanExporter
    failures: list[str] = field(default_factory=list)

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Finished spans, oldest first."""
        return self.exporter.get_finished_spans()

    def findings(self) -> tuple[Finding, ...]:
        """What was found, worst first."""
        return self.signals.findings.log.findings()

    def value(self, name: str, **labels: str) -> float | None:
        """A sample of `/metrics` by its full name (`…_total`, `…_count`, `…_bucket`), or None."""
        return self.signals.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def probe() -> Iterator[Probe]:
    """`Signals` on a provider and a registry of this test's own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    failures: list[str] = []
    signals = signals_of(provider.get_tracer("otel_fastperf"), Metrics(), Guard(failures.append))
    yield Probe(signals, exporter, failures)
    provider.shutdown()
