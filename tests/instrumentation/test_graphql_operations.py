"""`requests.graphql_operations`: the operation of a GraphQL request is part of its route.

Strawberry is not among the locked packages. Where it is missing, its method that asks the extensions is a stand-in.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from opentelemetry.trace import SpanKind

from otel_fastperf import Finding, Settings, Severity, Telemetry, setup_telemetry
from otel_fastperf.internals import open_labels

RUNNER = "strawberry.extensions.runner"
needs_strawberry = pytest.mark.skipif(
    find_spec("strawberry") is None, reason="strawberry-graphql is not among the locked packages"
)


class SchemaExtensionsRunner:
    """Asks extensions, as strawberry's does."""

    def __init__(self, name: Any) -> None:
        operation_type = SimpleNamespace(value="query")
        self.execution_context = SimpleNamespace(operation_name=name, operation_type=operation_type)

    def executing(self) -> Any:
        return nullcontext()


def router_of_stand_in() -> APIRouter:
    router = APIRouter()

    @router.post("")
    async def graphql(request: Request) -> dict[str, str]:
        for operation in await request.json():
            with SchemaExtensionsRunner(operation).executing():
                pass
        return {"data": "…"}

    return router


def router_of_strawberry() -> APIRouter:
    import strawberry  # type: ignore[import-not-found]
    from strawberry.fastapi import GraphQLRouter  # type: ignore[import-not-found]

    def orders() -> list[str]:
        return ["one"]

    def fails() -> str:
        raise ValueError("no")

    fields = {"orders": strawberry.field(resolver=orders), "fails": strawberry.field(resolver=fails)}
    query = strawberry.type(type("Query", (), fields))
    router: APIRouter = GraphQLRouter(strawberry.Schema(query=query))
    return router


@contextmanager
def serving(router: APIRouter, *, on: bool = True) -> Iterator[tuple[TestClient, Telemetry]]:
    app = FastAPI()
    settings = Settings(requests={"graphql_operations": on})
    with setup_telemetry(app, settings=settings) as telemetry:
        app.include_router(router, prefix="/graphql")
        with TestClient(app) as client:
            yield client, telemetry


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, Telemetry]]:
    module = ModuleType(RUNNER)
    module.SchemaExtensionsRunner = SchemaExtensionsRunner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, RUNNER, module)
    with serving(router_of_stand_in()) as served:
        yield served


def measured(telemetry: Telemetry) -> Counter[str]:
    """Requests by method and route."""
    families = {family.name: family for family in telemetry.metrics.registry.collect()}
    return Counter(
        {
            f"{sample.labels['http_request_method']} {sample.labels['http_route']}": int(sample.value)
            for sample in families["http_server_request_duration_seconds"].samples
            if sample.name.endswith("_count")
        }
    )


def servers(telemetry: Telemetry) -> list[str]:
    return [span.name for span in telemetry.spans() if span.kind is SpanKind.SERVER]


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.metrics.registry.get_sample_value(name, labels) or 0.0


@needs_strawberry
def test_an_operation_of_strawberry_is_part_of_the_route() -> None:
    with serving(router_of_strawberry()) as (client, telemetry):
        answer = client.post("/graphql", json={"query": "query getOrders { orders }"})
        assert answer.json() == {"data": {"orders": ["one"]}}
        two = "query one { orders } query two { orders }"
        client.post("/graphql", json={"query": two, "operationName": "two"})
        client.post("/graphql", json={"query": "query broken { fails }"})
        assert measured(telemetry) == {
            "POST /graphql getOrders": 1,
            "POST /graphql two": 1,
            "POST /graphql broken": 1,
        }
        assert servers(telemetry) == ["POST /graphql getOrders", "POST /graphql two", "POST /graphql broken"]
        attributes = telemetry.spans()[0].attributes or {}
        assert attributes["http.route"] == "/graphql getOrders"
        assert attributes["graphql.operation.name"] == "getOrders"
        assert attributes["graphql.operation.type"] == "query"


@needs_strawberry
def test_what_strawberry_does_not_execute_gets_no_name() -> None:
    with serving(router_of_strawberry()) as (client, telemetry):
        client.post("/graphql", json={"query": "{ orders }"})
        client.post("/graphql", json={"query": "query invented { nothing }"})
        client.post("/graphql", json={"query": "query one { orders }", "operationName": "another"})
        client.post("/graphql", json={"query": "query {"})
        assert measured(telemetry).keys() == {"POST /graphql"}


@needs_strawberry
def test_strawberry_is_left_alone_without_the_setting_and_afterwards() -> None:
    router, body = router_of_strawberry(), {"query": "query getOrders { orders }"}
    before = vars(sys.modules[RUNNER].SchemaExtensionsRunner)["executing"]
    with serving(router, on=False) as (client, telemetry):
        client.post("/graphql", json=body)
        assert measured(telemetry).keys() == {"POST /graphql"}
    with serving(router):
        assert vars(sys.modules[RUNNER].SchemaExtensionsRunner)["executing"] is not before
    assert vars(sys.modules[RUNNER].SchemaExtensionsRunner)["executing"] is before


def test_the_operation_is_part_of_the_route(stand_in: Any) -> None:
    client, telemetry = stand_in
    client.post("/graphql", json=["getOrders"])
    client.post("/graphql", json=[None])
    assert measured(telemetry) == {"POST /graphql getOrders": 1, "POST /graphql": 1}
    assert servers(telemetry) == ["POST /graphql getOrders", "POST /graphql"]


def test_findings_have_it_too(stand_in: Any) -> None:
    client, telemetry = stand_in
    mine = Finding(kind="mine", severity=Severity.WARNING, subject="it", message="It is so.", remedy="Change it.")
    telemetry.add_detector(lambda _request: [mine])
    client.post("/graphql", json=["getOrders"])
    assert [finding.where for finding in telemetry.findings()] == ["POST /graphql getOrders"]


def test_a_batch_has_the_name_of_its_first_operation(stand_in: Any) -> None:
    client, telemetry = stand_in
    client.post("/graphql", json=["one", "two"])
    assert measured(telemetry) == {"POST /graphql one": 1}


def test_names_that_clients_choose_are_bounded(stand_in: Any) -> None:
    client, telemetry = stand_in
    for number in range(open_labels._MOST_OF_OWN + 5):
        client.post("/graphql", json=[f"name{number}"])
    counted = measured(telemetry)
    assert len(counted) == open_labels._MOST_OF_OWN + 1
    assert counted["POST /graphql _OVERFLOW"] == 5
    overflow = {"metric": "http_server_request_duration_seconds", "label": "http_route"}
    assert value(telemetry, "fastperf_metric_overflow_total", **overflow) == 5
    names = [span.attributes["graphql.operation.name"] for span in telemetry.spans()[-5:]]
    assert names == [f"name{number}" for number in range(open_labels._MOST_OF_OWN, open_labels._MOST_OF_OWN + 5)]


@pytest.mark.parametrize("name", ["a b", "a/b", "x" * 200, "ä", "1", "a\n"])
def test_what_is_no_name_is_left_out(stand_in: Any, name: str) -> None:
    client, telemetry = stand_in
    client.post("/graphql", json=[name])
    assert measured(telemetry) == {"POST /graphql": 1}


def test_a_failure_is_counted_and_the_request_goes_on(stand_in: Any) -> None:
    client, telemetry = stand_in
    assert client.post("/graphql", json=[7]).json() == {"data": "…"}
    assert value(telemetry, "fastperf_telemetry_errors_total", part="graphql") == 1
    assert measured(telemetry) == {"POST /graphql": 1}


def test_an_operation_outside_of_requests_is_nobodys(stand_in: Any) -> None:
    client, telemetry = stand_in
    with SchemaExtensionsRunner("report").executing():
        pass
    client.post("/graphql", json=[None])
    assert measured(telemetry) == {"POST /graphql": 1}
    assert value(telemetry, "fastperf_telemetry_errors_total", part="graphql") == 0


def test_the_log_says_if_strawberry_is_not_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, RUNNER, raising=False)
    with serving(router_of_stand_in()):
        pass
    assert "requests.graphql_operations has no effect" in caplog.text
    assert "Remedy: import strawberry before the app starts" in caplog.text
