"""`/metrics` in front of the app: not in the schema, not traced, not counted, not behind its middleware."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.applications import Starlette

from otel_fastperf.route import has_literal_route

Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Any, Any], Awaitable[None]]

_logger: Final = logging.getLogger("otel_fastperf")


class MetricsEndpoint:
    """ASGI middleware, outside of everything else: answers one path and passes the rest on untouched."""

    def __init__(self, app: ASGIApp, owner: Starlette, path: str, respond: ASGIApp, *, on: bool = True) -> None:
        """`owner` is the app whose routes win over ours: a `/metrics` route of its own is left alone."""
        self.app = app
        self.on = on
        self._owner = owner
        self._path = path
        self._respond = respond
        self._warned = False

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI."""
        if self.on and scope["type"] == "http" and self._is_ours(scope):
            await self._respond(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if not path.endswith(self._path):
            return False
        root_path: str = scope.get("root_path", "")
        if path not in {self._path, root_path + self._path}:
            return False
        if has_literal_route(self._owner.routes, self._path):
            self._warn()
            return False
        return True

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "otel_fastperf: the app has a route %s of its own, so ours is not served there. Cure: set"
                " OTEL_FASTPERF_METRICS_PATH to another path, or OTEL_FASTPERF_METRICS_PORT to a port of its own.",
                self._path,
            )
