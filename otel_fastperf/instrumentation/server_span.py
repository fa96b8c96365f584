"""The source of the SERVER span: otel_fastperf, FastAPI or contrib. Each request has exactly one.

FastAPI >= 0.142 traces each request as soon as a tracer provider is set. Contrib's instrumentation may have been
applied to the app, either by its code, which we respect, or by the `opentelemetry-instrument` agent, which applies it
to every app because the package is installed. In the latter case `server_span="own"` takes it out of the app.
"""

from collections.abc import Iterator, MutableMapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal

from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette

from otel_fastperf.errors import SetupError
from otel_fastperf.instrumentation.other_telemetry import is_applied_by_agent, is_contrib_applied, native_config
from otel_fastperf.settings import Settings

Source = Literal["own", "native", "contrib"]

_DESCRIPTION: Final[dict[Source, str]] = {
    "own": "own SERVER span (FastAPI's native telemetry is off for this app)",
    "native": "inside the SERVER span of FastAPI's native telemetry",
    "contrib": "inside the SERVER span of opentelemetry-instrumentation-fastapi, which is applied to this app",
}
_OWN_UNDER_AGENT: Final = (
    "own SERVER span (the opentelemetry-instrument agent's opentelemetry-instrumentation-fastapi is off for this app)"
)


def server_span_description(source: Source, app: Starlette) -> str:
    """Describe the source for `Telemetry.describe()`."""
    if source == "own" and is_applied_by_agent(app):
        return _OWN_UNDER_AGENT
    return _DESCRIPTION[source]


def chosen_source(app: Starlette, wanted: Source) -> Source:
    """Return `wanted`, or `contrib` if the application applied that itself.

    Raises:
        SetupError: `native` is wanted, but this FastAPI has no telemetry.
    """
    if wanted == "native" and native_config(app) is None:
        message = (
            "server_span='native' needs FastAPI >= 0.142, and this app has no telemetry of its own."
            " Remedy: upgrade FastAPI, or leave server_span at 'own'."
        )
        raise SetupError(message)
    if wanted == "own" and is_applied_by_agent(app):
        return "own"
    return "contrib" if is_contrib_applied(app) else wanted


@contextmanager
def server_span_from(source: Source, app: Starlette, settings: Settings, provider: TracerProvider) -> Iterator[None]:
    """Switch the one source on and the others off, until the end of the block.

    Raises:
        SetupError: contrib was asked for after the app had started.
    """
    with ExitStack() as stack:
        if source == "native":
            stack.enter_context(_native_on(app, {settings.metrics.path, settings.debug.path}, provider))
        else:
            stack.enter_context(_native_off(app))
        if source == "contrib" and not is_contrib_applied(app):
            stack.enter_context(_contrib_on(app, settings, provider))
        yield


@contextmanager
def _native_off(app: Starlette) -> Iterator[None]:
    """Spans and metrics only: FastAPI's logs stay as they are, nothing here replaces them."""
    with _configured(app, tracing=False, metrics=False):
        yield


@contextmanager
def _native_on(app: Starlette, own_paths: AbstractSet[str], provider: TracerProvider) -> Iterator[None]:
    users_own = (native_config(app) or {}).get("exclude")

    def exclude(scope: MutableMapping[str, Any]) -> bool:
        return scope["path"] in own_paths or (users_own is not None and bool(users_own(scope)))

    with _configured(app, tracing=True, metrics=False, tracer_provider=provider, exclude=exclude):
        yield


@contextmanager
def _configured(app: Starlette, **values: Any) -> Iterator[None]:
    config = native_config(app)
    if config is None:
        yield
        return
    before = {key: config[key] for key in values}
    config.update(values)
    try:
        yield
    finally:
        config.update(before)


@contextmanager
def _contrib_on(app: Starlette, settings: Settings, provider: TracerProvider) -> Iterator[None]:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    if app.middleware_stack is not None:
        message = (
            "server_span='contrib' was asked for after the app had started, when contrib's instrumentation is without"
            " effect."
            " Remedy: call setup_telemetry right after app = FastAPI(), or leave server_span at 'own'."
        )
        raise SetupError(message)
    FastAPIInstrumentor.instrument_app(
        app,  # type: ignore[arg-type]
        tracer_provider=provider,
        excluded_urls=",".join(settings.requests.excluded_urls) or None,
        exclude_spans=["receive", "send"],
    )
    try:
        yield
    finally:
        FastAPIInstrumentor.uninstrument_app(app)  # type: ignore[arg-type]
