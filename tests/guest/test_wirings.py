"""Each public way to wire telemetry into an app, without `setup_telemetry` and with it: nothing that arrived stops.

What takes the place of something else is listed with its reason.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import FastAPI

from otel_fastperf.instrumentation.other_telemetry import native_config
from tests.guest.wired import Case, Order
from tests.otlp import ReceivedSpan, Receiver
from tests.serving import ROOT

#: beginnings of spans that give way: the time budget on our SERVER span and the metrics of the pool say the same
REPLACED: Final = ("fastapi.", "GET /items/{item_id} http ", "GET /broken http ", "connect")
#: of contrib for SQLAlchemy < 2.1, under the agent; ours is `db.client.connection.count`
REPLACED_METRIC: Final = "db.client.connections.usage"
#: OpenTelemetry's own distro; ours is tested in tests/zero_code
AGENT: Final = {"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "configurator"}
#: contrib's metrics under their old names and under those that ours have
BOTH_NAMES: Final = {"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"}
AUTOMATIC: Final = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
OURS_TOO: Final = {"OTEL_METRICS_EXPORTER": "otlp"}


@dataclass(frozen=True)
class Wiring:
    """One way to wire telemetry.

    `orders`: where `setup_telemetry` is called. It makes a difference to those that set a provider.
    """

    name: str
    function: str
    orders: tuple[Order, ...]
    environment: dict[str, str] = field(default_factory=dict)
    package: str = ""
    under_agent: bool = False


WIRINGS: Final = (
    Wiring("FastAPI by environment", "by_environment", ("last",), AUTOMATIC),
    Wiring("FastAPI by environment, our metrics by OTLP", "by_environment", ("last",), AUTOMATIC | OURS_TOO),
    Wiring("FastAPI by code", "sdk", ("first", "last")),
    Wiring("contrib", "contrib", ("first", "last"), BOTH_NAMES | OURS_TOO),
    # OpenTelemetry's distro sets OTEL_METRICS_EXPORTER
    Wiring("agent", "by_environment", ("last",), AGENT | BOTH_NAMES, under_agent=True),
    Wiring("logfire", "logfire", ("first", "last"), package="logfire"),
    Wiring("sentry", "sentry", ("first",), package="sentry_sdk"),
    Wiring("elastic", "elastic", ("first",), package="elasticapm"),
    Wiring("instrumentator", "instrumentator", ("first",), package="prometheus_fastapi_instrumentator"),
    Wiring("starlette_exporter", "starlette_exporter", ("first",), package="starlette_exporter"),
)

INSTALLED: Final = [each for each in WIRINGS if not each.package or find_spec(each.package) is not None]

with_us: Final = pytest.mark.parametrize(
    ("wiring", "order"),
    [pytest.param(wiring, order, id=f"{wiring.name}-{order}") for wiring in INSTALLED for order in wiring.orders],
)


class Arrived:
    """What arrived from one process."""

    def __init__(self, receiver: Receiver, elsewhere: list[str]) -> None:
        assert receiver.corrupt == []
        self.spans = receiver.spans
        self.elsewhere = Counter(elsewhere)
        self.logs = Counter(f"{scope} {record.event_name}" for scope, record in receiver.logs)
        #: scope, name, attributes -> how often counted, at the last push
        self.metrics = dict(_points(receiver))

    @property
    def server_spans(self) -> list[str]:
        return sorted(span.name for span in self.spans if span.kind == "SERVER" and "/metrics" not in span.name)

    @property
    def kept_spans(self) -> Counter[str]:
        """The spans that must be there with us too. SERVER spans have the same names, whoever makes them."""
        spans = [span for span in self.spans if not span.name.startswith(REPLACED)]
        return Counter(f"{span.kind} {span.name} {span.resource.get('place', '')}" for span in spans)


def _points(receiver: Receiver) -> Iterator[tuple[tuple[str, str, tuple[str, ...]], float]]:
    for push in receiver.metrics:
        for resource in push.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == REPLACED_METRIC:
                        continue
                    data: Any = getattr(metric, str(metric.WhichOneof("data")))
                    for point in data.data_points:
                        attributes = tuple(sorted(str(each) for each in point.attributes))
                        yield (scope.scope.name, metric.name, attributes), _count(point)


def _count(point: Any) -> float:
    return float(point.count if hasattr(point, "count") else point.as_int or point.as_double)


class Service:
    """Runs the cases that tests ask for, all in one go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrived: dict[tuple[str, Order], Arrived] = {}

    def run(self, wirings: Iterable[Wiring], *, under_agent: bool) -> None:
        """Run each wiring without us, and with us in each order."""
        with ExitStack() as receivers:
            cases, where = [], {}
            for wiring in wirings:
                for order in ("alone", *wiring.orders):
                    receiver = receivers.enter_context(Receiver())
                    case = self._case(wiring, order, receiver)
                    cases.append(case)
                    where[wiring.name, order] = receiver, Path(case.answer)
            _run_processes(cases, under_agent=under_agent)
            self._arrived |= {
                key: Arrived(receiver, json.loads(file.read_text())) for key, (receiver, file) in where.items()
            }

    def arrived(self, wiring: Wiring, order: Order) -> Arrived:
        if (wiring.name, order) not in self._arrived:
            group = [each for each in INSTALLED if each.under_agent == wiring.under_agent]
            self.run(group, under_agent=wiring.under_agent)
        return self._arrived[wiring.name, order]

    def _case(self, wiring: Wiring, order: Order, receiver: Receiver) -> Case:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "shop",
            "OTEL_FASTPERF_LOOP_BLOCKED": "60",  # a busy machine has no part in the comparison
            **wiring.environment,
        }
        return Case(wiring.function, order, str(self._folder / f"{wiring.name} {order}.json"), environment)


def _run_processes(cases: list[Case], *, under_agent: bool) -> None:
    """Under the agent each case has an interpreter of its own, because the agent reads the environment at its start."""
    batches = [[case] for case in cases] if under_agent else [cases]
    agent = [str(Path(sys.executable).parent / "opentelemetry-instrument")] if under_agent else []
    processes = [
        subprocess.Popen(
            [*agent, sys.executable, "-m", "tests.guest.wired", json.dumps([asdict(case) for case in batch])],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(batch[0].environment if under_agent else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for batch in batches
    ]
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return Service(tmp_path_factory.mktemp("wirings"))


def test_all_of_them_are_here() -> None:
    missing = [each.package for each in WIRINGS if each not in INSTALLED]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: `make test-matrix ENVS=wirings` has them")


@with_us
def test_nothing_that_arrived_stops(service: Service, wiring: Wiring, order: Order) -> None:
    before, after = service.arrived(wiring, "alone"), service.arrived(wiring, order)
    assert before.kept_spans - after.kept_spans == Counter()
    assert before.logs - after.logs == Counter()
    assert before.elsewhere == after.elsewhere
    # also not counted twice
    assert {key: after.metrics.get(key) for key in before.metrics} == before.metrics


@with_us
def test_something_arrived_before(service: Service, wiring: Wiring, order: Order) -> None:
    before = service.arrived(wiring, "alone")
    if wiring.package not in {"", "logfire"}:
        assert before.elsewhere
    elif native_config(FastAPI()) is not None or wiring.function in {"contrib", "logfire"} or wiring.under_agent:
        assert before.server_spans == ["GET /broken", "GET /items/{item_id}", "GET /items/{item_id}"]
        assert "shop.sold" in {name for _, name, _ in before.metrics}


@with_us
def test_each_request_has_one_server_span(service: Service, wiring: Wiring, order: Order) -> None:
    spans = service.arrived(wiring, order).server_spans
    assert spans == ["GET /broken", "GET /items/{item_id}", "GET /items/{item_id}"]


@with_us
def test_the_spans_of_a_request_go_to_one_place(service: Service, wiring: Wiring, order: Order) -> None:
    """The same resource stands for the same provider."""
    spans = service.arrived(wiring, order).spans
    by_trace: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    for together in by_trace.values():
        ids = {span.span_id for span in together}
        assert [span.kind for span in together if span.parent_id not in ids] == ["SERVER"]
        assert all(span.resource == together[0].resource for span in together)
    assert sum(span.kind == "CLIENT" for span in spans) == 2
    assert sum(span.name == "look up" for span in spans) == 2


@with_us
def test_no_request_is_counted_twice_by_metrics_of_one_name(service: Service, wiring: Wiring, order: Order) -> None:
    """Whoever adds up a metric over what sent it gets the number of requests."""
    points = service.arrived(wiring, order).metrics.items()
    for metric in ("http.server.request.duration", "http.server.response.body.size"):
        assert sum(count for (_, name, _), count in points if name == metric) in {0, 3}
    assert len({scope for (scope, name, _), _ in points if name == "http.server.active_requests"}) <= 1
