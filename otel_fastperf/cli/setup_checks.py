"""Checks of the set-up: one function for each silent failure, over facts that `setup_facts` gathers.

Each yields a `Check` with the state and the remedy: a command, a variable or a line of code.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from otel_fastperf.report.labels import pip_install
from otel_fastperf.settings import Settings

#: drivers of SQLAlchemy's async engines
ASYNC_DRIVERS: Final = ("aiomysql", "aiosqlite", "asyncmy", "asyncpg")
#: contrib's SQLAlchemy instrumentation rejects this version and later ones
_CONTRIB_REFUSES: Final = (2, 1)


class Level(StrEnum):
    """The result of a check: `warn` costs insight or speed, `bad` loses telemetry or will fail."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    level: Level
    #: a sentence
    what: str
    #: the command, variable or line that solves the problem; "" if there is none
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFacts:
    """Facts about the app."""

    telemetry: bool
    #: contrib's FastAPI instrumentation is applied
    contrib: bool
    #: this FastAPI (>= 0.142) makes spans by itself
    native: bool
    async_routes: int
    sync_routes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The input of the checks. A missing app or wrong settings are None."""

    environ: Mapping[str, str]
    settings: Settings | None
    #: message of `Settings()`, or of `setup_telemetry` during the app's import
    settings_error: str = ""
    #: package -> version, "" if it is not installed
    version: Callable[[str], str]
    #: requirements of otel-fastperf, from its metadata: `anyio>=4.4`
    required: tuple[str, ...] = ()
    app: AppFacts | None = None
    #: `postgresql+psycopg2` for each engine that is alive
    sync_engines: tuple[str, ...] = ()
    async_engines: tuple[str, ...] = ()
    #: contrib's SQLAlchemy instrumentation was imported but is not on
    contrib_sqlalchemy: bool = False
    #: client library that the app uses without its instrumentation -> what to install
    uninstrumented: Mapping[str, str] = field(default_factory=dict)
    #: host, port -> why no TCP connection is possible; "" if one is
    unreachable: Callable[[str, int], str]
    is_writable_directory: Callable[[str], bool]


def run_checks(facts: Facts) -> tuple[Check, ...]:
    """Run the checks that apply, in a fixed order."""
    return tuple(check for look in _CHECKS for check in look(facts))


def check_settings(facts: Facts) -> Iterator[Check]:
    """Wrong values stop `setup_telemetry`."""
    if facts.settings_error:
        remedy = "correct these variables; docs/settings.md lists all"
        yield Check("settings", Level.BAD, facts.settings_error, remedy)
    elif facts.settings is not None and facts.settings.sdk_disabled:
        yield Check(
            "settings", Level.WARN, "All telemetry is off: OTEL_SDK_DISABLED is true.", "unset OTEL_SDK_DISABLED"
        )
    else:
        yield Check("settings", Level.OK, "The settings are valid.")


def check_versions(facts: Facts) -> Iterator[Check]:
    """A lock file or another package may keep an installed package at an old version."""
    old = []
    for requirement in facts.required:
        found = re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9.]*)", requirement)
        if found is None:
            continue
        name, least = found.groups()
        there = facts.version(name)
        if there and _numbers(there) < _numbers(least):
            old.append((f"{name} {there}", f"'{name}>={least}'"))
    if old:
        what = f"Too old for otel-fastperf: {', '.join(have for have, _ in old)}."
        yield Check("versions", Level.BAD, what, f"pip install {' '.join(wanted for _, wanted in old)}")
    elif facts.required:
        yield Check("versions", Level.OK, "The installed packages are new enough.")


def check_setup(facts: Facts) -> Iterator[Check]:
    """An app that was not passed to `setup_telemetry` is not observed."""
    if facts.app is None or facts.settings_error or (facts.settings is not None and facts.settings.sdk_disabled):
        return
    if facts.app.telemetry:
        yield Check("setup", Level.OK, "setup_telemetry was called for the app.")
    else:
        what = "The app has no telemetry after its import. This is fine only if its lifespan calls setup_telemetry."
        yield Check("setup", Level.WARN, what, "write setup_telemetry(app) on the line after app = FastAPI()")


def check_server_spans(facts: Facts) -> Iterator[Check]:
    """Two instrumentations of one app make two SERVER spans per request."""
    if facts.app is None or not facts.app.contrib:
        return
    remove = "remove FastAPIInstrumentor.instrument_app(app), or start without opentelemetry-instrument"
    if facts.app.telemetry:
        what = (
            "opentelemetry-instrumentation-fastapi is also applied; its SERVER span is used, and costs more than ours."
        )
        yield Check("server spans", Level.INFO, what, remove)
    elif facts.app.native:
        what = (
            f"Two SERVER spans per request: opentelemetry-instrumentation-fastapi is applied, and FastAPI"
            f" {facts.version('fastapi')} traces by itself."
        )
        yield Check(
            "server spans", Level.WARN, what, f"call setup_telemetry(app), which keeps one of them; or {remove}"
        )


def check_auto_configure(facts: Facts) -> Iterator[Check]:
    """FastAPI adds its own exporter to our provider if its spans are used."""
    if facts.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() != "true" or facts.settings is None:
        return
    if facts.settings.server_span == "native" and facts.settings.traces.exports:
        what = "Each span is exported twice: by FastAPI (FASTAPI_OTEL_AUTO_CONFIGURE=true) and by otel_fastperf."
        yield Check("exporters", Level.BAD, what, "unset FASTAPI_OTEL_AUTO_CONFIGURE")
    else:
        what = "FASTAPI_OTEL_AUTO_CONFIGURE=true has no effect on the spans of an app with telemetry."
        remedy = "unset FASTAPI_OTEL_AUTO_CONFIGURE, unless you need the metrics and logs that it exports"
        yield Check("exporters", Level.INFO, what, remedy)


def check_contrib_sqlalchemy(facts: Facts) -> Iterator[Check]:
    """Contrib's instrumentation rejects SQLAlchemy 2.1, and says so only in a log line."""
    there = facts.version("sqlalchemy")
    if facts.contrib_sqlalchemy and there and _numbers(there) >= _CONTRIB_REFUSES:
        what = (
            f"opentelemetry-instrumentation-sqlalchemy is imported but off: it rejects SQLAlchemy {there}, and says so"
            " only in the log. The SQL spans of otel_fastperf are not affected."
        )
        remedy = "remove SQLAlchemyInstrumentor().instrument(…), or set OTEL_FASTPERF_DATABASE_CLIENT_SPAN=contrib"
        yield Check("SQL spans", Level.INFO, what, remedy)


def check_clients(facts: Facts) -> Iterator[Check]:
    """The calls of a library without instrumentation have no spans, and do not carry the trace on."""
    if facts.app is not None and facts.uninstrumented:
        names = ", ".join(sorted(facts.uninstrumented))
        what = f"The calls of {names} have no spans, and traces end there: no instrumentation is installed."
        yield Check("outgoing calls", Level.WARN, what, pip_install(facts.uninstrumented.values()))


def check_engines(facts: Facts) -> Iterator[Check]:
    """A synchronous statement in an `async def` route blocks the event loop, and so every other request."""
    app = facts.app
    if app is None or not facts.sync_engines or app.async_routes <= app.sync_routes:
        return
    names = ", ".join(sorted(set(facts.sync_engines)))
    what = (
        f"{app.async_routes} of {app.async_routes + app.sync_routes} routes are async def, and there"
        f" {'is a synchronous engine' if len(facts.sync_engines) == 1 else 'are synchronous engines'} ({names})."
        " In such a route, a synchronous statement blocks the event loop."
    )
    remedy = "use create_async_engine(…) and AsyncSession in these routes, or def instead of async def"
    yield Check("engines", Level.INFO if facts.async_engines else Level.WARN, what, remedy)


def check_greenlet(facts: Facts) -> Iterator[Check]:
    """SQLAlchemy 2.1 does not install greenlet by itself, 2.0 only on common processors."""
    if facts.version("greenlet"):
        return
    drivers = [name for name in ASYNC_DRIVERS if facts.version(name)]
    remedy = "pip install 'sqlalchemy[asyncio]'"
    if facts.async_engines:
        what = "The async engine will fail at its first statement: greenlet is not installed."
        yield Check("greenlet", Level.BAD, what, remedy)
    elif drivers:
        what = f"{', '.join(drivers)} is installed, but not greenlet, which async engines need."
        yield Check("greenlet", Level.WARN, what, remedy)


def check_collector(facts: Facts) -> Iterator[Check]:
    """Without a collector, spans are dropped."""
    if facts.settings is None or not facts.settings.traces.exports or facts.settings.traces.exporter == "console":
        return
    traces = facts.settings.traces
    url = urlsplit(traces.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    usual = {"http/protobuf": 4318, "grpc": 4317}
    if port in usual.values() and port != usual[traces.protocol]:
        other = next(name for name in usual if name != traces.protocol)
        what = f"Port {port} is the usual one for {other}, but spans are sent as {traces.protocol}."
        remedy = f"set OTEL_EXPORTER_OTLP_PROTOCOL={other}, or port {usual[traces.protocol]} in the endpoint"
        yield Check("collector", Level.BAD, what, remedy)
        return
    why = facts.unreachable(host, port)
    if why:
        remedy = "start the collector, or set OTEL_EXPORTER_OTLP_ENDPOINT to its address"
        yield Check("collector", Level.BAD, f"No collector responds at {host}:{port}: {why}.", remedy)
    else:
        yield Check("collector", Level.OK, f"{host}:{port} accepts connections.")


def check_service_name(facts: Facts) -> Iterator[Check]:
    """Without a name, the backend cannot tell services apart."""
    if facts.settings is None or facts.settings.service_name or "service.name" in facts.settings.resource_attributes:
        return
    level = Level.WARN if facts.settings.traces.exports else Level.INFO
    yield Check(
        "service name", level, "The service has no name: its traces say unknown_service.", "set OTEL_SERVICE_NAME"
    )


def check_sampler(facts: Facts) -> Iterator[Check]:
    """A sampler that keeps nothing is easily forgotten after a test."""
    if facts.settings is None:
        return
    name, argument = facts.settings.traces.sampler.lower(), facts.settings.traces.sampler_arg
    none_of_them = name.endswith("traceidratio") and argument and float(argument) == 0
    if name.endswith("always_off") or none_of_them:
        shown = f"{name} with argument {argument}" if none_of_them else name
        roots = ", except if the caller has sampled the trace" if name.startswith("parentbased") else ""
        what = f"The sampler {shown} records no spans{roots}."
        yield Check("sampler", Level.WARN, what, "unset OTEL_TRACES_SAMPLER, or set it to parentbased_always_on")


def check_workers(facts: Facts) -> Iterator[Check]:
    """Without the others, a scrape reaches only one of the workers that share a port."""
    text = facts.environ.get("WEB_CONCURRENCY", "")
    workers = int(text) if text.isdecimal() else 1
    settings = facts.settings
    if workers > 1 and settings is not None and settings.metrics.enabled and not settings.workers.enabled:
        where = settings.metrics.path
        what = f"{workers} workers (WEB_CONCURRENCY) count separately, and a scrape of {where} reaches one of them."
        yield Check("workers", Level.WARN, what, "unset OTEL_FASTPERF_WORKERS_ENABLED")


def check_multiprocess_directory(facts: Facts) -> Iterator[Check]:
    """prometheus_client writes its files there if the variable is set, even if it is empty."""
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        path = facts.environ.get(variable)
        if path is None:
            continue
        if not path:
            what = f"{variable} is set but empty: prometheus_client writes its files into the working directory."
            yield Check("multiprocess metrics", Level.BAD, what, f"unset {variable}")
        elif not facts.is_writable_directory(path):
            what = f"{variable}={path} is not a writable directory: the app's own first metric will fail."
            yield Check("multiprocess metrics", Level.BAD, what, f"mkdir -p {path}, writable for the service's user")
        return


def check_speedups(facts: Facts) -> Iterator[Check]:
    """Uvicorn uses them if they are installed."""
    if not facts.version("uvicorn"):
        return
    missing = [name for name in ("uvloop", "httptools") if not facts.version(name)]
    if missing:
        what = f"uvicorn is slower without {' and '.join(missing)}."
        yield Check("uvicorn", Level.INFO, what, "pip install 'uvicorn[standard]'")


def check_debug_route(facts: Facts) -> Iterator[Check]:
    """Without a token, the client's address decides: it must not be possible to spoof it."""
    if facts.settings is None or not facts.settings.debug.enabled or facts.settings.debug.token is not None:
        return
    trusted = [part.strip() for part in facts.environ.get("FORWARDED_ALLOW_IPS", "").split(",")]
    if "*" in trusted:
        what = (
            f"Any client can spoof its address (FORWARDED_ALLOW_IPS=*), and {facts.settings.debug.path} has no token."
        )
        remedy = "set OTEL_FASTPERF_DEBUG_TOKEN, or FORWARDED_ALLOW_IPS to the proxy's address"
        yield Check("debug route", Level.WARN, what, remedy)


_CHECKS: Final[tuple[Callable[[Facts], Iterator[Check]], ...]] = (
    check_settings,
    check_versions,
    check_setup,
    check_server_spans,
    check_auto_configure,
    check_contrib_sqlalchemy,
    check_clients,
    check_engines,
    check_greenlet,
    check_collector,
    check_service_name,
    check_sampler,
    check_workers,
    check_multiprocess_directory,
    check_speedups,
    check_debug_route,
)


def _numbers(version: str) -> tuple[int, ...]:
    """`2.0.30` -> (2, 0, 30), `0.59b0` -> (0, 59): enough for lower bounds."""
    found = re.match(r"[0-9.]+", version)
    numbers = [int(part) for part in found.group().split(".") if part] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
