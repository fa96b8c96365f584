"""The places of our layers in a FastAPI app, from the outside in.

    FastAPI's native telemetry      FastAPI >= 0.142; makes no spans, unless `server_span` is `native`
    OwnPages                        answers /metrics and /debug/fastperf before anything else sees them
    RequestLayer                    makes the SERVER span, or joins contrib's, if contrib's middleware is around it
    ServerErrorMiddleware, the app's middlewares with a boundary after each, ExceptionMiddleware
    RouterLayer                     sees the scope with its route
    app.router

Starlette builds the middleware chain at the first request or at start-up, so `build_middleware_stack` is wrapped on the
app. If the chain has been built already, the layers are put into it. So set-up works at import, in a factory and in the
lifespan.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware

from otel_fastperf.instrumentation.exchanges import Requests
from otel_fastperf.instrumentation.middleware import Boundary, MiddlewareTimer
from otel_fastperf.instrumentation.other_metrics import are_metrics_read
from otel_fastperf.instrumentation.other_telemetry import (
    contrib_middleware,
    contrib_silenced,
    is_applied_by_agent,
    is_contrib_applied,
    nodes_of,
)
from otel_fastperf.instrumentation.own_pages import OwnPage, OwnPages
from otel_fastperf.instrumentation.requests import NewLoop, RequestLayer, RouterLayer
from otel_fastperf.internals.patching import Patch, subscribed

_L = TypeVar("_L", OwnPages, RequestLayer, RouterLayer, Boundary)


class Layers:
    """Puts our layers into the middleware chain of one app, and takes them out again."""

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
        """Change nothing yet.

        Args:
            app: The app.
            requests: Shared by all requests of the app.
            pages: Pages to answer before the rest of the chain.
            timer: Places the boundaries between middlewares; None for no boundaries.
            on_new_loop: See `RequestLayer`.
            without_agents: No spans of contrib's middleware if the `opentelemetry-instrument` agent applied it.
        """
        self.app = app
        self._requests = requests
        self._pages = pages
        self._timer = timer
        self._on_new_loop = on_new_loop
        self._without_agents = without_agents
        self._guard = requests.signals.guard
        self._made: list[Any] = []
        self._silenced = ExitStack()

    def placed(self, chain: Any) -> Any:
        """Return the middleware chain with our layers in it, or as it is if that fails."""
        return self._guarded(self.place, chain)

    def placed_in_new(self, chain: Any, *, is_outermost: bool) -> Any:
        """Like `placed`, for a chain that is being built: see `place_in_new`."""
        return self._guarded(partial(self.place_in_new, is_outermost=is_outermost), chain)

    def _guarded(self, place: Callable[[Any], Any], chain: Any) -> Any:
        try:
            return place(chain)
        except Exception as error:  # noqa: BLE001 - the app answers unobserved
            # those that are in the chain already pass requests on
            for layer in self._made:
                layer.on = False
            self._guard.failed("middleware", error)
            return chain

    def place(self, chain: Any) -> Any:
        """Return the middleware chain with our layers in it."""
        is_silent = self._without_agents and is_applied_by_agent(self.app)
        if is_silent:
            self._silenced.enter_context(contrib_silenced(chain, keep_metrics=are_metrics_read()))
        self._place_between(chain)
        contrib = contrib_middleware(chain)
        if contrib is not None:
            contrib.app = self._request_layer(contrib.app, join=not is_silent)
            return self._own_pages(chain)
        return self._own_pages(self._request_layer(chain, join=False))

    def place_in_new(self, chain: Any, *, is_outermost: bool) -> Any:
        """Like `place`, for a chain that is being built. Not `is_outermost` if another package wrapped its building."""
        if not is_outermost and is_contrib_applied(self.app) and isinstance(chain, ServerErrorMiddleware):
            return self._place_inside(chain)
        return self.place(chain)

    def _place_inside(self, chain: ServerErrorMiddleware) -> Any:
        """For contrib applied after us: it rebuilds the chain, and keeps only what is below the first middleware."""
        self._place_between(chain)
        chain.app = self._own_pages(self._request_layer(chain.app, join=True))
        return chain

    def place_router(self) -> None:
        """Put a layer around the app's router. Routers of mounted apps are inside of it."""
        router = self.app.router
        router.middleware_stack = self._kept(RouterLayer(router.middleware_stack, self._requests.signals))

    def make_outermost(self) -> None:
        """Answer our pages outside of everything else, even if another package has wrapped the chain."""
        chain = self.app.middleware_stack
        if chain is not None and not any(chain is layer for layer in self._made):
            self.app.middleware_stack = self._guarded(self._own_pages, chain)

    def remove(self) -> None:
        """Take every layer out of its chain. Those that cannot be reached stay, switched off."""
        for layer in self._made:
            layer.on = False
        own = {id(layer) for layer in self._made}
        self.app.middleware_stack = _without(self.app.middleware_stack, own)
        self.app.router.middleware_stack = _without(self.app.router.middleware_stack, own)
        self._made.clear()
        self._silenced.close()
        if self._timer is not None:
            self._timer.remove()

    def _own_pages(self, inner: Any) -> OwnPages:
        return self._kept(OwnPages(inner, self.app, self._pages, self._guard))

    def _request_layer(self, inner: Any, *, join: bool) -> RequestLayer:
        return self._kept(RequestLayer(inner, self._requests, join=join, on_new_loop=self._on_new_loop))

    def _place_between(self, chain: Any) -> None:
        if self._timer is not None:
            self._timer.place(chain, self._boundary)
            self._requests.middlewares = self._timer.middlewares

    def _boundary(self, inner: Any, phase: int, sends: bool) -> Boundary:  # noqa: FBT001 - see MiddlewareTimer.place
        return self._kept(Boundary(self._requests.signals, inner, phase, sends))

    def _kept(self, layer: _L) -> _L:
        self._made.append(layer)
        return layer


@contextmanager
def install_layers(app: Starlette, layers: Layers) -> Iterator[None]:
    """Put the layers into the app's middleware chain, now or when it is built."""
    with subscribed(app, "build_middleware_stack", _placing_layers, layers, layers):
        if app.middleware_stack is not None:
            app.middleware_stack = layers.placed(app.middleware_stack)
        layers.place_router()
        try:
            yield
        finally:
            layers.remove()


def _placing_layers(original: Callable[[], Any], patch: Patch[Layers]) -> Any:
    def build() -> Any:
        chain = original()
        for layers in patch.subscribers.values():
            chain = layers.placed_in_new(chain, is_outermost=layers.app.build_middleware_stack is patch.wrapper)
        return chain

    return build


def _without(chain: Any, own: set[int]) -> Any:
    while id(chain) in own:
        chain = chain.app
    for node in nodes_of(chain):
        while id(getattr(node, "app", None)) in own:
            node.app = node.app.app
    return chain
