"""The types of the public API in typical code. mypy and pyright check them, and pytest runs the code."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import pytest
from cachetools import TTLCache
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

import otel_fastperf
from otel_fastperf import (
    AllocationReport,
    AllocationsError,
    CallSite,
    Detector,
    FastPerfError,
    Finding,
    Kind,
    Report,
    ReportError,
    RequestLabel,
    RequestView,
    RouteVerdict,
    ServerRequestHook,
    ServerResponseHook,
    Settings,
    SettingsError,
    SetupError,
    Severity,
    StatementView,
    Telemetry,
    WorkerVerdict,
    add_trace_context,
    setup_telemetry,
)
from otel_fastperf.pytest_plugin import FastPerf, Request, Statement


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item_id}")
    async def item(item_id: int) -> int:
        return item_id

    return app


@pytest.fixture
def telemetry(app: FastAPI) -> Iterator[Telemetry]:
    with setup_telemetry(app) as telemetry:
        yield telemetry


class TestTheModule:
    def test_the_version_is_text(self) -> None:
        assert_type(otel_fastperf.__version__, str)

    def test_a_name_that_does_not_exist_is_an_error_for_the_checker(self) -> None:
        with pytest.raises(AttributeError):
            otel_fastperf.setup_telemetri  # type: ignore[attr-defined]  # noqa: B018


class TestSettingUp:
    def test_an_app_is_enough(self, app: FastAPI) -> None:
        telemetry = assert_type(setup_telemetry(app), Telemetry)
        telemetry.shutdown()

    def test_a_starlette_app_is_accepted(self) -> None:
        setup_telemetry(Starlette()).shutdown()

    def test_one_or_several_engines_of_both_kinds_are_accepted(self, app: FastAPI) -> None:
        engine, async_engine = create_engine("sqlite://"), create_async_engine("sqlite+aiosqlite://")
        engines: list[Engine] = [engine]
        setup_telemetry(app, engines=engine).shutdown()
        setup_telemetry(app, engines=async_engine).shutdown()
        setup_telemetry(app, engines=engines).shutdown()
        setup_telemetry(app, engines=(engine, async_engine), settings=Settings()).shutdown()

    def test_hooks_are_functions_of_span_scope_and_message(self, app: FastAPI) -> None:
        def at_start(span: Span, scope: MutableMapping[str, Any]) -> None:
            span.set_attribute("path", scope["path"])

        def at_end(span: Span, scope: MutableMapping[str, Any], message: MutableMapping[str, Any]) -> int:
            span.set_attribute("status", message["status"])
            return len(scope)

        at_starts: list[ServerRequestHook] = [at_start, lambda span, _scope: span.update_name("a")]
        at_ends: list[ServerResponseHook] = [at_end]
        with setup_telemetry(app, server_request_hook=at_starts[0], server_response_hook=at_ends[0]) as telemetry:
            TestClient(app).get("/items/1")
            (span,) = telemetry.spans()
            assert dict(span.attributes or {})["status"] == 200

    def test_a_label_is_a_function_of_the_scope(self, app: FastAPI) -> None:
        def tenant(scope: MutableMapping[str, Any]) -> str | None:
            return str(scope["path"]) or None

        labels: dict[str, RequestLabel] = {"tenant": tenant}
        setup_telemetry(app, request_labels=labels).shutdown()

    def test_the_handle_is_a_context_manager(self, app: FastAPI) -> None:
        with setup_telemetry(app) as telemetry:
            assert_type(telemetry, Telemetry)

    def test_the_handle_is_an_asynchronous_context_manager(self, app: FastAPI) -> None:
        async def main() -> None:
            async with setup_telemetry(app) as telemetry:
                assert_type(telemetry, Telemetry)

        asyncio.run(main())


class TestTheHandle:
    def test_the_handle_returns_these_types(self, telemetry: Telemetry) -> None:
        assert_type(telemetry.settings, Settings)
        assert_type(telemetry.metrics.registry, CollectorRegistry)
        assert_type(telemetry.describe(), str)
        assert_type(telemetry.spans(), tuple[ReadableSpan, ...])
        assert_type(telemetry.findings(), tuple[Finding, ...])
        assert_type(telemetry.diagnose(), Report)

    def test_the_methods_of_the_handle_accept_these_arguments(self, telemetry: Telemetry) -> None:
        assert_type(telemetry.flush(), bool)
        assert_type(telemetry.flush(timeout=0.1), bool)
        assert_type(telemetry.allocations(0.01, most=5, frames=2), AllocationReport)
        telemetry.shutdown()

    def test_a_cache_keeps_its_type(self, telemetry: Telemetry) -> None:
        prices: TTLCache[str, float] = TTLCache(maxsize=10, ttl=60)

        @functools.lru_cache
        def square(number: int) -> int:
            return number * number

        assert_type(telemetry.observe_cache(prices), TTLCache[str, float])
        assert_type(telemetry.observe_cache(square, "squares")(2), int)


class TestDetectorsAndListeners:
    def test_a_detector_is_a_function_from_a_request_to_findings(self, app: FastAPI, telemetry: Telemetry) -> None:
        def generator(request: RequestView) -> Iterator[Finding]:
            yield finding(request.route or "")

        def returns_a_list(_request: RequestView) -> list[Finding]:
            return []

        class WithState:
            def __call__(self, request: RequestView) -> Iterable[Finding]:
                return [finding(request.route or "")] if request.status == 200 else []

        detectors: list[Detector] = [generator, returns_a_list, WithState()]
        for detector in detectors:
            remove = telemetry.add_detector(detector)
            assert_type(remove, Callable[[], None])
        TestClient(app).get("/items/1")
        assert [found.count for found in telemetry.findings()] == [2]

    def test_a_detector_can_read_the_request(self, app: FastAPI, telemetry: Telemetry) -> None:
        seen: list[float] = []

        def detector(request: RequestView) -> tuple[()]:
            assert_type(request.scope, Mapping[str, Any])
            assert_type(request.route, str | None)
            assert_type(request.status, int | None)
            assert_type(request.started, float)
            assert_type(request.db_statements, int)
            assert_type(request.db_seconds, float)
            assert_type(request.statements, Mapping[str, StatementView])
            assert_type(request.span, Span)
            if request.budget is not None:
                segments: Mapping[Any, float] = request.budget.segments
                names: list[str] = list(request.budget.segments)
                assert segments.keys() == set(names)
            seen.append(assert_type(request.seconds, float))
            return ()

        telemetry.add_detector(detector)
        TestClient(app).get("/items/1")
        assert len(seen) == 1

    def test_a_detector_can_read_statements(self) -> None:
        def check(statement: StatementView) -> None:
            assert_type(statement.query.text, str)
            assert_type(statement.query.summary, str)
            assert_type(statement.query.operation, str)
            assert_type(statement.query.collection, str)
            assert_type(statement.query.fingerprint, str)
            assert_type(statement.dialect, str)
            assert_type(statement.count, int)
            assert_type(statement.seconds, float)
            assert_type(statement.sequential, int)
            assert_type(statement.loop_seconds, float)
            assert_type(statement.slow_count, int)
            assert_type(statement.slowest, float)
            assert_type(statement.call_site, CallSite | None)
            assert_type(statement.slow_call_site, CallSite | None)
            assert_type(statement.lines, Mapping[CallSite | None, Sequence[float]])

        assert callable(check)

    def test_listeners_can_return_anything(self, app: FastAPI, telemetry: Telemetry) -> None:
        findings: list[Finding] = []
        routes: list[str | None] = []

        def on_finding(found: Finding, request: RequestView | None) -> int:
            findings.append(found)
            return 0 if request is None else request.db_statements

        assert_type(telemetry.add_finding_listener(on_finding), Callable[[], None])
        assert_type(telemetry.add_request_listener(lambda request: routes.append(request.route)), Callable[[], None])
        telemetry.add_detector(lambda request: [finding(request.route or "")])
        TestClient(app).get("/items/1")
        assert [found.route for found in findings] == routes == ["/items/{item_id}"]


def finding(subject: str) -> Finding:
    """A finding with the fields that a detector sets."""
    return Finding(
        kind="of_our_own",
        severity=Severity.WARNING,
        subject=subject,
        message="it is slow.",
        remedy="make it faster",
        evidence={"seconds": 0.5, "statements": 3, "sampled": True, "tables": ("items", "orders"), "why": "no index"},
        call_site=CallSite("shop/orders.py", 41, "list_orders"),
        seconds=0.5,
    )


class TestValues:
    def test_a_finding_has_typed_fields(self) -> None:
        found = finding("orders")
        assert_type(found.kind, str)
        assert_type(found.severity, Severity)
        assert_type(found.severity.rank, int)
        assert_type(found.subject, str)
        assert_type(found.message, str)
        assert_type(found.remedy, str)
        assert_type(found.evidence, Mapping[str, str | int | float | bool | tuple[str, ...]])
        assert_type(found.call_site, CallSite | None)
        assert_type(found.seconds, float)
        assert_type(found.route, str)
        assert_type(found.first_seen, float)
        assert_type(found.last_seen, float)
        assert_type(found.count, int)
        assert_type(found.trace_ids, tuple[str, ...])
        assert_type(found.fingerprint, str)
        assert found.kind not in set(Kind)

    def test_a_call_site_has_typed_fields(self) -> None:
        site = CallSite("shop/orders.py", 41, "list_orders")
        assert_type(site.file, str)
        assert_type(site.line, int)
        assert_type(site.function, str)
        assert_type(str(site), str)

    def test_a_report_has_typed_fields(self, app: FastAPI, telemetry: Telemetry) -> None:
        TestClient(app).get("/items/1")
        report = telemetry.diagnose()
        assert_type(report.service, str)
        assert_type(report.versions, Mapping[str, str])
        assert_type(report.made_at, float)
        assert_type(report.worker, WorkerVerdict)
        assert_type(report.worker.loop_lag_p99, float | None)
        assert_type(report.worker.blocked_seconds, Mapping[str, float])
        assert_type(report.findings, tuple[Finding, ...])
        assert_type(report.troubles, Mapping[str, float])
        for route in assert_type(report.routes, tuple[RouteVerdict, ...]):
            assert_type(route.requests, int)
            assert_type(route.p95, float | None)
            assert_type(route.segments, Mapping[str, float])
            assert_type(route.sentence, str)
        assert assert_type(Report.from_json(assert_type(report.to_json(), str)), Report) == report

    def test_an_allocation_report_has_typed_fields(self, telemetry: Telemetry) -> None:
        report = telemetry.allocations(0.01)
        assert_type(report.seconds, float)
        assert_type(report.size, int)
        for site in report.sites:
            assert_type(site.file, str)
            assert_type(site.line, int)
            assert_type(site.size, int)
            assert_type(site.count, int)
            assert_type(site.application, bool)

    def test_the_errors_have_one_base(self) -> None:
        errors: list[type[FastPerfError]] = [AllocationsError, ReportError, SettingsError, SetupError]
        assert all(issubclass(error, Exception) for error in errors)


class TestSettings:
    def test_settings_are_created_from_arguments(self) -> None:
        settings = Settings(service_name="shop", metrics={"port": 9464}, loop={"blocked": 0.2})
        assert_type(settings, Settings)
        assert_type(settings.metrics.port, int | None)
        assert settings.metrics.port == 9464

    def test_settings_are_created_from_an_environment(self) -> None:
        settings = Settings.from_env({"OTEL_SERVICE_NAME": "shop"}, findings={"enabled": False})
        assert_type(settings, Settings)
        assert settings.service_name == "shop"

    def test_groups_and_values_have_their_types(self) -> None:
        settings = Settings.from_env({})
        assert_type(settings.sdk_disabled, bool)
        assert_type(settings.service_name, str | None)
        assert_type(settings.resource_attributes, dict[str, str])
        assert_type(settings.propagators, tuple[str, ...])
        assert_type(settings.server_span, Literal["own", "native", "contrib"])
        assert_type(settings.traces.protocol, Literal["http/protobuf", "grpc"])
        assert_type(settings.requests.excluded_urls, tuple[str, ...])
        assert_type(settings.database.slow_query, float)
        assert_type(settings.explain.enabled, bool)
        assert_type(settings.middleware.slow_share, float)
        assert_type(settings.metrics.bearer_token, SecretStr | None)
        assert_type(settings.loop.interval, float)
        assert_type(settings.threads.wait, float)
        assert_type(settings.memory.growth_bytes, int)
        assert_type(settings.cache.discover, bool)
        assert_type(settings.logs.enabled, bool)
        assert_type(settings.findings.disabled, tuple[str, ...])
        assert_type(settings.debug.token, SecretStr | None)


def test_the_log_processor_is_one_of_structlog() -> None:
    processor: Callable[[Any, str, MutableMapping[str, Any]], Mapping[str, Any]] = add_trace_context
    assert processor(None, "info", {"event": "started"}) == {"event": "started"}


def test_the_fixture_of_the_pytest_plugin_is_typed(app: FastAPI, fastperf: FastPerf) -> None:
    assert_type(fastperf.watch(app), Telemetry)
    TestClient(app).get("/items/1")
    (request,) = fastperf.requests
    assert_type(request, Request)
    assert_type(request.method, str)
    assert_type(request.route, str)
    assert_type(request.path, str)
    assert_type(request.status, int | None)
    assert_type(request.seconds, float)
    assert_type(request.queries, int)
    assert_type(request.statements, tuple[Statement, ...])
    assert_type(request.findings, tuple[Finding, ...])
    assert_type(fastperf.findings, tuple[Finding, ...])
    fastperf.assert_queries(at_most=0, route="/items/{item_id}")
    fastperf.assert_no(Kind.N_PLUS_ONE, "slow_query")
    with fastperf.budget(max_queries=1, max_seconds=60, forbid=("n_plus_one",)):
        TestClient(app).get("/items/2")


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(otel_fastperf.__file__).with_name("py.typed").is_file()
