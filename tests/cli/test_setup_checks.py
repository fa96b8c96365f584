"""Checks of the set-up, on made-up facts: each reports a problem with its remedy."""

from typing import Any, Final

import pytest

from otel_fastperf.cli.setup_checks import AppFacts, Check, Facts, Level, run_checks
from otel_fastperf.settings import Settings

NEW: Final = {
    "fastapi": "0.165.0",
    "sqlalchemy": "2.1.9",
    "greenlet": "3.2.0",
    "uvicorn": "0.54.0",
    "uvloop": "0.22.0",
    "httptools": "0.7.0",
}
COLLECTOR: Final = {"base_endpoint": "http://collector:4318"}


def app(**values: Any) -> AppFacts:
    usual = {"telemetry": True, "contrib": False, "native": True, "async_routes": 3, "sync_routes": 1}
    return AppFacts(**{**usual, **values})


def facts(versions: dict[str, str] | None = None, settings: dict[str, Any] | None = None, **values: Any) -> Facts:
    known = {**NEW, **(versions or {})}
    usual: dict[str, Any] = {
        "environ": {},
        "settings": Settings(**{"service_name": "shop", **(settings or {})}),
        "version": lambda name: known.get(name, ""),
        "unreachable": lambda _host, _port: "",
        "is_writable_directory": lambda _path: True,
    }
    return Facts(**{**usual, **values})


def found(given: Facts) -> dict[str, Check]:
    checks = run_checks(given)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    return by_name


def wrong(given: Facts) -> dict[str, Check]:
    return {name: check for name, check in found(given).items() if check.level is not Level.OK}


def test_all_checks_of_a_sound_set_up_are_ok() -> None:
    given = facts(app=app(), settings={"traces": COLLECTOR}, required=("fastapi>=0.115.2",), async_engines=("x+y",))
    assert {name: check.level for name, check in found(given).items()} == {
        "settings": Level.OK,
        "versions": Level.OK,
        "setup": Level.OK,
        "collector": Level.OK,
    }


def test_client_libraries_without_instrumentation_are_named_with_what_to_install() -> None:
    missing = {"httpx": "otel-fastperf[httpx]", "grpc": "opentelemetry-instrumentation-grpc"}
    check = wrong(facts(app=app(), uninstrumented=missing))["outgoing calls"]
    assert "grpc, httpx" in check.what
    assert check.remedy == "pip install opentelemetry-instrumentation-grpc 'otel-fastperf[httpx]'"
    assert "outgoing calls" not in found(facts(app=app()))
    assert "outgoing calls" not in found(facts(uninstrumented=missing))


def test_each_check_that_is_not_ok_has_a_remedy() -> None:
    for given in (with_every_problem(), facts(app=app())):
        for check in run_checks(given):
            assert bool(check.remedy) is (check.level is not Level.OK), check
            assert check.what.rstrip().endswith(".")
            assert not check.remedy.endswith(".")


def with_every_problem() -> Facts:
    return facts(
        versions={"uvloop": "", "greenlet": "", "asyncpg": "0.30", "sqlalchemy": "2.0.1"},
        settings={
            "service_name": None,
            "traces": {**COLLECTOR, "sampler": "always_off"},
            "server_span": "native",
            "workers": {"enabled": False},
        },
        environ={
            "FASTAPI_OTEL_AUTO_CONFIGURE": "True",
            "WEB_CONCURRENCY": "4",
            "PROMETHEUS_MULTIPROC_DIR": "",
            "FORWARDED_ALLOW_IPS": "*",
        },
        required=("sqlalchemy>=2.0.30",),
        app=app(telemetry=False, contrib=True),
        sync_engines=("sqlite+pysqlite",),
        unreachable=lambda _host, _port: "Connection refused",
    )


def test_all_problems_are_reported_at_once() -> None:
    assert {name: check.level.value for name, check in wrong(with_every_problem()).items()} == {
        "versions": "bad",
        "setup": "warn",
        "server spans": "warn",
        "exporters": "bad",
        "engines": "warn",
        "greenlet": "warn",
        "collector": "bad",
        "service name": "warn",
        "sampler": "warn",
        "workers": "warn",
        "multiprocess metrics": "bad",
        "uvicorn": "info",
        "debug route": "warn",
    }


def test_the_message_about_wrong_settings_is_shown() -> None:
    check = wrong(facts(settings_error="otel_fastperf: 1 setting is wrong:\n  X=1: no."))["settings"]
    assert check.level is Level.BAD
    assert "X=1: no." in check.what


def test_other_checks_run_without_settings() -> None:
    given = facts(settings_error="otel_fastperf: wrong.", environ={"PROMETHEUS_MULTIPROC_DIR": ""}, app=app())
    names = set(wrong(Facts(**{**{f: getattr(given, f) for f in given.__slots__}, "settings": None})))
    assert names == {"settings", "multiprocess metrics"}


def test_disabled_telemetry_is_not_reported_as_missing_set_up() -> None:
    assert set(wrong(facts(settings={"sdk_disabled": True}, app=app(telemetry=False)))) == {"settings"}


@pytest.mark.parametrize(
    ("requirement", "there", "is_old"),
    [
        ("sqlalchemy>=2.0.30", "2.0.29", True),
        ("sqlalchemy>=2.0.30", "2.0.30", False),
        ("sqlalchemy>=2.0.30", "2.1", False),
        ("sqlalchemy>=2.0.30", "2.0.30.post1", False),
        ("anyio>=4.4", "4.10.0", False),
        ("anyio>=4.4", "4.4.0", False),
        ("anyio>=4", "4.0", False),
        ("opentelemetry-util-http>=0.59b0", "0.58b0", True),
        ("opentelemetry-util-http>=0.59b0", "0.59b0", False),
        ("opentelemetry-util-http >= 0.59b0 ; python_version > '3'", "0.58b0", True),
        ("sqlalchemy", "1.4", False),
        ("sqlalchemy>=2.0.30", "", False),
        ("sqlalchemy>=2.0.30", "unknown", True),
    ],
)
def test_versions_are_compared_with_the_requirements(requirement: str, there: str, is_old: bool) -> None:
    name = requirement.split(">", maxsplit=1)[0].strip()
    checks = wrong(facts(versions={name: there}, required=(requirement,)))
    assert ("versions" in checks) is is_old
    if is_old:
        assert checks["versions"].remedy.startswith(f"pip install '{name}>=")


def test_contrib_under_our_telemetry_is_joined() -> None:
    check = wrong(facts(app=app(contrib=True)))["server spans"]
    assert check.level is Level.INFO
    assert "FastAPIInstrumentor.instrument_app(app)" in check.remedy


def test_contrib_beside_fastapi_s_native_telemetry_makes_two_spans() -> None:
    check = wrong(facts(app=app(telemetry=False, contrib=True)))["server spans"]
    assert check.level is Level.WARN
    assert "FastAPI 0.165.0" in check.what
    assert "server spans" not in wrong(facts(app=app(telemetry=False, contrib=True, native=False)))


def test_fastapi_s_exporter_doubles_spans_only_with_native_server_spans() -> None:
    environ = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true"}
    native = {"server_span": "native", "traces": COLLECTOR}
    assert wrong(facts(environ=environ, settings=native))["exporters"].level is Level.BAD
    assert wrong(facts(environ=environ, settings={"traces": COLLECTOR}))["exporters"].level is Level.INFO
    assert "exporters" not in found(facts(settings=native))


def test_contrib_s_sqlalchemy_instrumentation_creates_no_spans_on_sqlalchemy_2_1() -> None:
    assert wrong(facts(contrib_sqlalchemy=True))["SQL spans"].level is Level.INFO
    assert "SQL spans" not in found(facts(versions={"sqlalchemy": "2.0.46"}, contrib_sqlalchemy=True))
    assert "SQL spans" not in found(facts())


def test_a_synchronous_engine_under_async_routes_is_a_warning() -> None:
    check = wrong(facts(app=app(), sync_engines=("postgresql+psycopg2",)))["engines"]
    assert check.level is Level.WARN
    assert "3 of 4 routes are async def, and there is a synchronous engine (postgresql+psycopg2)" in check.what
    assert "create_async_engine" in check.remedy


def test_a_synchronous_engine_is_fine_under_def_routes_and_info_beside_an_async_one() -> None:
    assert "engines" not in found(facts(app=app(async_routes=1, sync_routes=1), sync_engines=("a+b",)))
    assert "engines" not in found(facts(sync_engines=("a+b",)))
    beside = facts(app=app(), sync_engines=("a+b", "a+b"), async_engines=("a+c",))
    assert wrong(beside)["engines"].level is Level.INFO


def test_an_async_engine_needs_greenlet() -> None:
    missing = {"greenlet": ""}
    assert wrong(facts(versions=missing, async_engines=("sqlite+aiosqlite",)))["greenlet"].level is Level.BAD
    assert wrong(facts(versions={**missing, "asyncpg": "0.30"}))["greenlet"].level is Level.WARN
    assert "greenlet" not in found(facts(versions=missing))
    assert "greenlet" not in found(facts(async_engines=("sqlite+aiosqlite",)))


def test_a_collector_that_does_not_answer_is_bad() -> None:
    asked: list[tuple[str, int]] = []

    def unreachable(host: str, port: int) -> str:
        asked.append((host, port))
        return "Connection refused"

    check = wrong(facts(settings={"traces": COLLECTOR}, unreachable=unreachable))["collector"]
    assert check.level is Level.BAD
    assert check.what == "No collector responds at collector:4318: Connection refused."
    assert asked == [("collector", 4318)]


@pytest.mark.parametrize(
    ("traces", "port"),
    [
        ({"endpoint": "https://otlp.example.com/v1/traces"}, 443),
        ({"endpoint": "http://collector/v1/traces"}, 80),
        ({"exporter": "otlp"}, 4318),
        ({"exporter": "otlp", "protocol": "grpc"}, 4317),
    ],
)
def test_the_checked_port_is_the_one_that_receives_spans(traces: dict[str, str], port: int) -> None:
    asked: list[int] = []

    def unreachable(_host: str, port: int) -> str:
        asked.append(port)
        return ""

    assert found(facts(settings={"traces": traces}, unreachable=unreachable))["collector"].level is Level.OK
    assert asked == [port]


@pytest.mark.parametrize("traces", [{}, {"exporter": "none", **COLLECTOR}, {"exporter": "console"}])
def test_without_export_no_collector_is_checked(traces: dict[str, str]) -> None:
    def unreachable(_host: str, _port: int) -> str:
        pytest.fail("was asked")

    assert "collector" not in found(facts(settings={"traces": traces}, unreachable=unreachable))


@pytest.mark.parametrize(
    ("protocol", "port", "remedy"),
    [
        ("http/protobuf", 4317, "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or port 4318 in the endpoint"),
        ("grpc", 4318, "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or port 4317 in the endpoint"),
    ],
)
def test_the_port_of_the_other_protocol_is_bad(protocol: str, port: int, remedy: str) -> None:
    traces = {"protocol": protocol, "base_endpoint": f"http://collector:{port}"}
    check = wrong(facts(settings={"traces": traces}))["collector"]
    assert (check.level, check.remedy) == (Level.BAD, remedy)


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"service_name": None}, Level.INFO),
        ({"service_name": None, "traces": COLLECTOR}, Level.WARN),
        ({"service_name": None, "resource_attributes": {"service.name": "shop"}, "traces": COLLECTOR}, None),
    ],
)
def test_a_missing_service_name_is_a_warning_with_export(settings: dict[str, Any], level: Level | None) -> None:
    check = found(facts(settings=settings)).get("service name")
    assert (check.level if check else None) == level


@pytest.mark.parametrize(
    ("sampler", "argument", "told"),
    [
        ("always_off", "", True),
        ("parentbased_always_off", "", True),
        ("traceidratio", "0", True),
        ("parentbased_traceidratio", "0.0", True),
        ("traceidratio", "0.01", False),
        ("parentbased_traceidratio", "", False),
        ("always_on", "0", False),
    ],
)
def test_a_sampler_that_drops_everything_is_reported(sampler: str, argument: str, told: bool) -> None:
    checks = wrong(facts(settings={"traces": {"sampler": sampler, "sampler_arg": argument}}))
    assert ("sampler" in checks) is told


@pytest.mark.parametrize(
    ("workers", "settings", "is_told"),
    [
        ("4", {"workers": {"enabled": False}}, True),
        ("4", {}, False),
        ("4", {"workers": {"enabled": False}, "metrics": {"enabled": False}}, False),
        ("1", {"workers": {"enabled": False}}, False),
        ("many", {"workers": {"enabled": False}}, False),
    ],
)
def test_separate_metrics_of_several_workers_are_reported(
    workers: str, settings: dict[str, Any], is_told: bool
) -> None:
    check = found(facts(environ={"WEB_CONCURRENCY": workers}, settings=settings)).get("workers")
    assert (check is not None) is is_told
    assert check is None or "a scrape of /metrics reaches one of them" in check.what


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
@pytest.mark.parametrize(
    ("path", "is_writable", "remedy"),
    [("", False, "unset {}"), ("/nowhere", False, "mkdir -p /nowhere"), ("/run/metrics", True, None)],
)
def test_a_bad_directory_of_prometheus_client_is_reported(
    variable: str, path: str, is_writable: bool, remedy: str | None
) -> None:
    given = facts(environ={variable: path}, is_writable_directory=lambda _path: is_writable)
    check = found(given).get("multiprocess metrics")
    assert (remedy is None) is (check is None)
    assert check is None or remedy is None or check.remedy.startswith(remedy.format(variable))


def test_missing_speedups_of_uvicorn_are_reported() -> None:
    assert "uvloop and httptools" in wrong(facts(versions={"uvloop": "", "httptools": ""}))["uvicorn"].what
    assert wrong(facts(versions={"uvloop": ""}))["uvicorn"].level is Level.INFO
    assert "uvicorn" not in found(facts(versions={"uvloop": "", "uvicorn": ""}))


@pytest.mark.parametrize("trusted", ["*", "10.0.0.1, *"])
def test_a_debug_route_without_a_token_is_reported_if_clients_can_spoof_their_address(trusted: str) -> None:
    environ = {"FORWARDED_ALLOW_IPS": trusted}
    assert "OTEL_FASTPERF_DEBUG_TOKEN" in wrong(facts(environ=environ))["debug route"].remedy
    for debug in ({"token": "long enough"}, {"enabled": False}):
        assert "debug route" not in found(facts(environ=environ, settings={"debug": debug}))
    assert "debug route" not in found(facts(environ={"FORWARDED_ALLOW_IPS": "10.0.0.1"}))


def test_every_check_is_in_the_list_of_checks() -> None:
    from otel_fastperf.cli import setup_checks as checks

    functions = {value for name, value in vars(checks).items() if name.startswith("check_") and callable(value)}
    assert functions == set(checks._CHECKS)
