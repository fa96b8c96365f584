"""Other telemetry of an app: FastAPI's native telemetry and contrib's instrumentation."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, Final

from opentelemetry.trace import NoOpTracer
from starlette.applications import Starlette

#: contrib's middleware, which makes its own SERVER span: module and class
_CONTRIB: Final = ("opentelemetry.instrumentation.asgi", "OpenTelemetryMiddleware")
#: contrib's middleware that records exceptions on the current span
_CONTRIB_ERRORS: Final = ("opentelemetry.instrumentation.fastapi", "ExceptionHandlerMiddleware")
#: the class by which contrib replaces `fastapi.FastAPI` to instrument each app when it is made
_CONTRIB_APP: Final = ("opentelemetry.instrumentation.fastapi", "_InstrumentedFastAPI")

#: imported in every process that `opentelemetry-instrument` starts
AGENT: Final = "opentelemetry.instrumentation.auto_instrumentation"


def native_config(app: Starlette) -> dict[str, Any] | None:
    """The options of `FastAPI(telemetry=…)`, with defaults; None before FastAPI 0.142."""
    config = getattr(app, "_telemetry", None)
    return config if isinstance(config, dict) and "tracing" in config else None


def is_contrib_applied(app: Starlette) -> bool:
    """True if contrib's FastAPI instrumentation was applied, by the app or by the `opentelemetry-instrument` agent."""
    return bool(getattr(app, "_is_instrumented_by_opentelemetry", False))


def is_applied_by_agent(app: Starlette) -> bool:
    """True if the agent applied contrib's instrumentation, not the application itself."""
    made_by_contrib = any(_qualified(each) == _CONTRIB_APP for each in type(app).__mro__)
    return AGENT in sys.modules and made_by_contrib and is_contrib_applied(app)


def contrib_middleware(outermost: Any) -> Any:
    """Contrib's middleware in a built middleware chain, or None."""
    return next((node for node in nodes_of(outermost) if _qualified(type(node)) == _CONTRIB), None)


@contextmanager
def contrib_silenced(outermost: Any, *, keep_metrics: bool) -> Iterator[None]:
    """Have contrib's middlewares in a built middleware chain make no spans, until the context manager exits.

    `keep_metrics`: the one that also measures stays in the chain.
    """
    with ExitStack() as exits:
        if not keep_metrics:
            exits.enter_context(_taken_out(outermost, _CONTRIB))
        elif (contrib := contrib_middleware(outermost)) is not None:
            exits.enter_context(_without_spans(contrib))
        exits.enter_context(_taken_out(outermost, _CONTRIB_ERRORS))
        yield


@contextmanager
def _taken_out(outermost: Any, kind: tuple[str, str]) -> Iterator[None]:
    found = next(
        ((outer, node) for outer, node in pairwise(nodes_of(outermost)) if _qualified(type(node)) == kind), None
    )
    if found is None:
        yield
        return
    outer, node = found
    outer.app = node.app
    try:
        yield
    finally:
        node.app = outer.app
        outer.app = node


@contextmanager
def _without_spans(contrib: Any) -> Iterator[None]:
    before = {name: getattr(contrib, name) for name in ("tracer", "exclude_receive_span", "exclude_send_span")}
    contrib.tracer, contrib.exclude_receive_span, contrib.exclude_send_span = NoOpTracer(), True, True
    try:
        yield
    finally:
        vars(contrib).update(before)


def nodes_of(outermost: Any) -> Iterator[Any]:
    """The apps of a built middleware chain from the outside in, up to the first without an attribute `app`."""
    seen: set[int] = set()
    while outermost is not None and id(outermost) not in seen:
        seen.add(id(outermost))
        yield outermost
        outermost = getattr(outermost, "app", None)


def _qualified(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__name__
