"""The source of the SERVER span: otel_fastperf, FastAPI or contrib. Each request has exactly one.

FastAPI >= 0.142 traces each request as soon as a tracer provider is set. Contrib's instrumentation may be applied to
the app in two ways. If the app's code did it, we respect that. If the `opentelemetry-instrument` agent did it, which
happens to every app if the package is installed, `server_span="own"` ends its spans. The metrics of both are not ours
to end.
"""

from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal

from opentelemetry.trace import TracerProvider
from starlette.applications import Starlette

from otel_fastperf.errors import SetupError
from otel_fastperf.instrumentation.other_telemetry import is_applied_by_agent, is_contrib_applied, native_config
from otel_fastperf.requests.route import has_literal_route
from otel_fastperf.settings import Settings

Source = Literal["own", "native", "contrib"]

_DESCRIPTION: Final[dict[Source, str]] = {
    "own": "own SERVER span (FastAPI's native telemetry makes none for this app)",
    "native": "inside the SERVER span of FastAPI's native telemetry",
    "contrib": "inside the SERVER span of opentelemetry-instrumentation-fastapi, which is applied to this app",
}
_OWN_UNDER_AGENT: Final = (
    "own SERVER span (the opentelemetry-instrument agent's FastAPI instrumentation makes none for this app)"
)


def server_span_description(source: Source, app: Starlette) -> str:
    """Describe the source for `Telemetry.describe()`."""
    if source == "own" and is_applied_by_agent(app):
        return _OWN_UNDER_AGENT
    return _DESCRIPTION[source]


def chosen_source(app: Starlette, wanted: Source) -> Source:
    """Return `wanted`, or `contrib` if the application applied contrib's instrumentation itself.

    Raises:
        SetupError: `native` is wanted, but this version of FastAPI has no telemetry.
    """
    if wanted == "native" and native_config(app) is None:
        message = (
            "server_span='native' needs an app of FastAPI >= 0.142, which has telemetry of its own."
            " Remedy: upgrade FastAPI, or leave server_span at 'own'."
        )
        raise SetupError(message)
    if wanted == "own" and is_applied_by_agent(app):
        return "own"
    return "contrib" if is_contrib_applied(app) else wanted


@contextmanager
def server_span_from(source: Source, app: Starlette, settings: Settings, provider: TracerProvider) -> Iterator[None]:
    """Switch this source on and the others off, until the context manager exits.

    Raises:
        SetupError: `contrib` is wanted, but the app has already started.
    """
    with ExitStack() as exits:
        exits.enter_context(_native_spans(app, provider if source == "native" else None))
        exits.enter_context(_own_pages_excluded(app, settings))
        if source == "contrib" and not is_contrib_applied(app):
            exits.enter_context(_contrib_on(app, settings, provider))
        yield


@contextmanager
def _native_spans(app: Starlette, provider: TracerProvider | None) -> Iterator[None]:
    """Switch FastAPI's spans on, with a provider; or off, with None. Its metrics and logs stay as the app has them."""
    wanted = {"tracing": False} if provider is None else {"tracing": True, "tracer_provider": provider}
    with _configured(app, **wanted):
        yield


@contextmanager
def _own_pages_excluded(app: Starlette, settings: Settings) -> Iterator[None]:
    """Have FastAPI neither trace nor measure requests for our pages, which were not there before."""
    paths = {page.path for page in (settings.metrics, settings.debug) if page.enabled}
    apps_exclude = (native_config(app) or {}).get("exclude")

    def exclude(scope: MutableMapping[str, Any]) -> bool:
        if scope["path"] in paths and not has_literal_route(app.routes, scope["path"]):
            return True
        return apps_exclude is not None and bool(apps_exclude(scope))

    with _configured(app, exclude=exclude):
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
            "server_span='contrib' has no effect once the app has started."
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
