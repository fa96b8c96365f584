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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware

from otel_fastperf.instrumentation.exchanges import Requests
from otel_fastperf.instrumentation.middleware import Boundary, MiddlewareTimer
from otel_fastperf.instrumentation.other_telemetry import (
    chain,
    contrib_middleware,
    is_applied_by_agent,
    is_contrib_applied,
    put_contrib_back,
    take_contrib_out,
)
from otel_fastperf.instrumentation.own_pages import OwnPage, OwnPages
from otel_fastperf.instrumentation.requests import NewLoop, RequestLayer, RouterLayer
from otel_fastperf.internals.patching import Patch, subscribed

_L = TypeVar("_L", OwnPages, RequestLayer, RouterLayer, Boundary)


class Layers:
    """Puts our layers into one app's middleware chain, whoever builds that chain, and takes them out again."""

    def __init__(
        self,
        app: Starlette,
        requests: Requests,
        *,
        pages: Sequence[OwnPage] = (),
        timer: MiddlewareTimer | None = None,
        on_new_loop: NewLoop = lambda: None,
        without_agents: bool = False,
    ) -> None:
        """Prepare; nothing is placed.

        Args:
            app: The app.
            requests: Shared by its requests.
            pages: Answered before the rest of the chain.
            timer: Places the boundaries between middlewares; None places none.
            on_new_loop: See `RequestLayer`.
            without_agents: Take contrib's middleware out if the `opentelemetry-instrument` agent applied it.
        """
        self.app = app
        self._requests = requests
        self._pages = pages
        self._timer = timer
        self._on_new_loop = on_new_loop
        self._without_agents = without_agents
        self._made: list[Any] = []
        self._taken: list[tuple[Any, Any]] = []

    def place(self, stack: Any) -> Any:
        """Return the middleware chain with our layers in it."""
        if self._without_agents and is_applied_by_agent(self.app):
            self._taken = take_contrib_out(stack)
        self._place_between(stack)
        contrib = contrib_middleware(stack)
        if contrib is not None:
            contrib.app = self._request_layer(contrib.app, join=True)
            return self._own_pages(stack)
        return self._own_pages(self._request_layer(stack, join=False))

    def place_in_new(self, stack: Any, *, is_outermost: bool) -> Any:
        """The same for a chain that is being built; not `is_outermost` if another package wrapped the building."""
        if not is_outermost and is_contrib_applied(self.app) and isinstance(stack, ServerErrorMiddleware):
            return self._place_inside(stack)
        return self.place(stack)

    def _place_inside(self, stack: ServerErrorMiddleware) -> Any:
        """For contrib applied after us: it takes the stack apart and keeps only what is under its first middleware."""
        self._place_between(stack)
        stack.app = self._own_pages(self._request_layer(stack.app, join=True))
        return stack

    def place_router(self) -> None:
        """Around the router. Mounted apps have routers of their own, inside."""
        router = self.app.router
        router.middleware_stack = self._kept(RouterLayer(router.middleware_stack, self._requests.signals))

    def make_outermost(self) -> None:
        """Once the stack is built: our own pages are answered outside of everything, whoever built the stack."""
        stack = self.app.middleware_stack
        if stack is not None and not any(stack is layer for layer in self._made):
            self.app.middleware_stack = self._own_pages(stack)

    def remove(self) -> None:
        """Take every layer out of the chain it is in; one that cannot be reached stays, switched off."""
        for layer in self._made:
            layer.on = False
        own = {id(layer) for layer in self._made}
        self.app.middleware_stack = _without(self.app.middleware_stack, own)
        self.app.router.middleware_stack = _without(self.app.router.middleware_stack, own)
        self._made.clear()
        put_contrib_back(self._taken)
        self._taken = []
        if self._timer is not None:
            self._timer.remove()

    def _own_pages(self, inner: Any) -> OwnPages:
        return self._kept(OwnPages(inner, self.app, self._pages))

    def _request_layer(self, inner: Any, *, join: bool) -> RequestLayer:
        return self._kept(RequestLayer(inner, self._requests, join=join, on_new_loop=self._on_new_loop))

    def _place_between(self, stack: Any) -> None:
        if self._timer is not None:
            self._timer.place(stack, self._boundary)
            self._requests.middlewares = self._timer.middlewares

    def _boundary(self, inner: Any, phase: int, sends: bool) -> Boundary:  # noqa: FBT001 - see MiddlewareTimer.place
        return self._kept(Boundary(self._requests.signals, inner, phase, sends))

    def _kept(self, layer: _L) -> _L:
        self._made.append(layer)
        return layer


@contextmanager
def install_layers(app: Starlette, layers: Layers) -> Iterator[None]:
    """Have the layers in the app's stack, from now on or from when it is built."""
    with subscribed(app, "build_middleware_stack", _placing_layers, layers, layers):
        if app.middleware_stack is not None:
            app.middleware_stack = layers.place(app.middleware_stack)
        layers.place_router()
        try:
            yield
        finally:
            layers.remove()


def _placing_layers(original: Callable[[], Any], patch: Patch[Layers]) -> Any:
    def build() -> Any:
        chain = original()
        for layers in patch.subscribers.values():
            chain = layers.place_in_new(chain, is_outermost=layers.app.build_middleware_stack is patch.wrapper)
        return chain

    return build


def _without(stack: Any, own: set[int]) -> Any:
    while id(stack) in own:
        stack = stack.app
    for node in chain(stack):
        while id(getattr(node, "app", None)) in own:
            node.app = node.app.app
    return stack
