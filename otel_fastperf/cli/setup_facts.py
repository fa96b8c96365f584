"""Gather the facts for `setup_checks` from the app, the environment, the installed packages and the process."""

import gc
import inspect
import os
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, Final

from starlette.applications import Starlette

from otel_fastperf.cli.setup_checks import AppFacts, Facts
from otel_fastperf.errors import SettingsError, SetupError
from otel_fastperf.instrumentation.clients import missing_instrumentations
from otel_fastperf.instrumentation.other_telemetry import is_contrib_applied, native_config
from otel_fastperf.instrumentation.server_span import chosen_source
from otel_fastperf.internals.app_loading import load_app
from otel_fastperf.internals.versions import installed_version
from otel_fastperf.requests.route import endpoints
from otel_fastperf.settings import Settings
from otel_fastperf.telemetry import Telemetry, telemetry_of

_CONNECT_SECONDS: Final = 1.0


def gather(target: str | None, *, factory: bool = False) -> Facts:
    """Gather all facts, including those about the app if it is named as `module:app`.

    Raises:
        AppError: There is no such app, or its import fails.
    """
    settings, wrong = _settings()
    app: Starlette | None = None
    if target is not None and not wrong:
        # as uvicorn does (`--app-dir`, by default ""), even if the directory is already in sys.path further down
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path contains strings
        try:
            app = load_app(target, factory=factory, factory_remedy="add --factory")
        except (SettingsError, SetupError) as error:
            wrong = str(error)
    telemetry: Telemetry | None = telemetry_of(app)
    sync, asynchronous = _engines()
    settings = settings if telemetry is None else telemetry.settings
    return Facts(
        environ=dict(os.environ),
        settings=settings,
        settings_error=wrong,
        version=installed_version,
        required=_required(),
        app=None if app is None else _app_facts(app, telemetry),
        sync_engines=sync,
        async_engines=asynchronous,
        contrib_sqlalchemy=_is_contrib_sqlalchemy_off(),
        uninstrumented={} if settings is None else missing_instrumentations(settings.clients),
        unreachable=_unreachable,
        is_writable_directory=lambda path: os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK),  # noqa: PTH112
    )


def _is_contrib_sqlalchemy_off() -> bool:
    """True if contrib's SQLAlchemy instrumentation is imported but not on, as if it refused the installed version."""
    module = sys.modules.get("opentelemetry.instrumentation.sqlalchemy")
    return module is not None and not module.SQLAlchemyInstrumentor().is_instrumented_by_opentelemetry


def _settings() -> tuple[Settings | None, str]:
    try:
        return Settings(), ""
    except SettingsError as error:
        return None, str(error)


def _required() -> tuple[str, ...]:
    try:
        return tuple(requires("otel-fastperf") or ())
    except PackageNotFoundError:
        return ()


def _app_facts(app: Starlette, telemetry: Telemetry | None) -> AppFacts:
    are_async = [inspect.iscoroutinefunction(inspect.unwrap(endpoint)) for endpoint in endpoints(app.routes)]
    return AppFacts(
        telemetry=telemetry is not None,
        contrib=is_contrib_applied(app) and _is_contrib_span_used(app, telemetry),
        native=native_config(app) is not None,
        async_routes=sum(are_async),
        sync_routes=len(are_async) - sum(are_async),
    )


def _is_contrib_span_used(app: Starlette, telemetry: Telemetry | None) -> bool:
    return telemetry is None or chosen_source(app, telemetry.settings.server_span) == "contrib"


def _engines() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The living engines, synchronous and async, as `sqlite+pysqlite`: without their URLs."""
    dialects = [engine.dialect for engine in _alive("sqlalchemy.engine.base", "Engine")]
    named = [(f"{dialect.name}+{dialect.driver}", bool(dialect.is_async)) for dialect in dialects]
    return (
        tuple(name for name, is_async in named if not is_async),
        tuple(name for name, is_async in named if is_async),
    )


def _alive(module: str, name: str) -> Iterator[Any]:
    # isinstance() would read `__class__`, which makes lazy proxies load their objects
    wanted = getattr(sys.modules.get(module), name, None)
    return (each for each in gc.get_objects() if wanted is not None and issubclass(type(each), wanted))


def _unreachable(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error) or type(error).__name__
    return ""
