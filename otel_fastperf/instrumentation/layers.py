"""Where our layers sit in a FastAPI app.

    FastAPI's native telemetry      (>= 0.142; switched off, unless it is asked for)
    OwnPages                        answers /metrics and /debug/fastperf before anything else sees them
    RequestLayer                    the SERVER span; inside of contrib's middleware where that is applied: it joins
    ServerErrorMiddleware, the app's middleware with a boundary after each, ExceptionMiddleware
    RouterLayer                     sees the routed scope
    app.router

Starlette builds the stack at the first request or at start-up, so `build_middleware_stack` is wrapped on the instance;
a stack that is already built is wrapped as it is. That makes set-up work at import, in a factory, and in the lifespan.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware

from otel_fastperf.instrumentation.other_telemetry import chain, contrib_middleware, is_contrib_applied

Layer = Callable[[Any], Any]


class Layers:
    """Puts our layers into one app's stack, wherever that stack comes from, and takes them out again."""

    def __init__(
        self,
        app: Starlette,
        *,
        outermost: Layer,
        request: Callable[..., Any],
        router: Layer,
        between: Callable[[Any, Callable[..., Any]], None] = lambda _stack, _layer: None,
        boundary: Callable[..., Any] = lambda inner, *_how: inner,
    ) -> None:
        """`outermost(app)`, `request(app, join=…)`, `router(app)` and `boundary(app, …)` make the layers.

        `between(stack, boundary)` puts boundaries into a stack that has been built.
        """
        self._app = app
        self._outermost = outermost
        self._request = request
        self._router = router
        self._between = between
        self._boundary = boundary
        self._made: list[Any] = []

    def place(self, stack: Any) -> Any:
        """The stack with our layers in it."""
        self._place_between(stack)
        contrib = contrib_middleware(stack)
        if contrib is not None:
            contrib.app = self._make(self._request, contrib.app, join=True)
            return self._make(self._outermost, stack)
        return self._make(self._outermost, self._make(self._request, stack, join=False))

    def place_inside(self, stack: ServerErrorMiddleware) -> Any:
        """For contrib applied after us: it takes the stack apart and keeps only what is under its first middleware."""
        self._place_between(stack)
        stack.app = self._make(self._outermost, self._make(self._request, stack.app, join=True))
        return stack

    def _place_between(self, stack: Any) -> None:
        self._between(stack, partial(self._make, self._boundary))

    def place_router(self) -> None:
        """Around the router. Mounted apps have routers of their own, inside."""
        router = self._app.router
        router.middleware_stack = self._make(self._router, router.middleware_stack)

    def make_outermost(self) -> None:
        """Once the stack is built: our own pages are answered outside of everything, whoever built the stack."""
        stack = self._app.middleware_stack
        if stack is not None and not any(stack is layer for layer in self._made):
            self._app.middleware_stack = self._make(self._outermost, stack)

    def remove(self) -> None:
        """Take every layer out of the chain it is in; one that cannot be reached stays, switched off."""
        for layer in self._made:
            layer.on = False
        own = {id(layer) for layer in self._made}
        self._app.middleware_stack = _without(self._app.middleware_stack, own)
        self._app.router.middleware_stack = _without(self._app.router.middleware_stack, own)
        self._made.clear()

    def _make(self, kind: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        layer = kind(*arguments, **options)
        self._made.append(layer)
        return layer


@contextmanager
def install_layers(app: Starlette, layers: Layers) -> Iterator[None]:
    """Have the layers in the app's stack, from now on or from when it is built."""
    original = app.build_middleware_stack
    was_wrapped = "build_middleware_stack" in app.__dict__
    on = True

    def build() -> Any:
        stack = original()
        if not on:
            return stack
        wrapped_again = app.build_middleware_stack is not build
        if wrapped_again and is_contrib_applied(app) and isinstance(stack, ServerErrorMiddleware):
            return layers.place_inside(stack)
        return layers.place(stack)

    app.build_middleware_stack = build  # type: ignore[method-assign]
    if app.middleware_stack is not None:
        app.middleware_stack = layers.place(app.middleware_stack)
    layers.place_router()
    try:
        yield
    finally:
        on = False
        if app.__dict__.get("build_middleware_stack") is build:
            del app.__dict__["build_middleware_stack"]
            if was_wrapped:
                app.build_middleware_stack = original  # type: ignore[method-assign]
        layers.remove()


def _without(stack: Any, own: set[int]) -> Any:
    while id(stack) in own:
        stack = stack.app
    for node in chain(stack):
        while id(getattr(node, "app", None)) in own:
            node.app = node.app.app
    return stack
