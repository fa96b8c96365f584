"""Who else observes an app: FastAPI's native telemetry, contrib's instrumentation."""

from collections.abc import Iterator
from typing import Any, Final

from starlette.applications import Starlette

#: contrib's middleware, which opens a SERVER span of its own: module and class
_CONTRIB: Final = ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware")


def native_config(app: Starlette) -> dict[str, Any] | None:
    """What `FastAPI(telemetry=…)` was given, with defaults; None below FastAPI 0.142."""
    config = getattr(app, "_telemetry", None)
    return config if isinstance(config, dict) and "tracing" in config else None


def is_contrib_applied(app: Starlette) -> bool:
    """True when contrib's FastAPI instrumentation was applied, by hand or by the `opentelemetry-instrument` agent."""
    return bool(getattr(app, "_is_instrumented_by_opentelemetry", False))


def contrib_middleware(stack: Any) -> Any:
    """Contrib's middleware in a built stack, or None."""
    return next((node for node in chain(stack) if (type(node).__module__, type(node).__name__) == _CONTRIB), None)


def chain(stack: Any) -> Iterator[Any]:
    """A built middleware stack from the outside in, as far as each knows the next by `.app`."""
    seen: set[int] = set()
    while stack is not None and id(stack) not in seen:
        seen.add(id(stack))
        yield stack
        stack = getattr(stack, "app", None)
