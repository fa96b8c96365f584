"""Serves our own pages in front of the app: they are not in its schema, not traced, and skip its middleware."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from otel_fastperf.internals.guard import Guard
from otel_fastperf.requests.route import has_literal_route

_logger: Final = logging.getLogger("otel_fastperf")


@dataclass(frozen=True, slots=True)
class OwnPage:
    """One of our own pages.

    Attributes:
        path: Where it is served.
        respond: The ASGI app that answers.
        remedy: What to do if the app has its own route at this path; for a log message.
    """

    path: str
    respond: ASGIApp
    remedy: str


class OwnPages:
    """ASGI middleware, outside of everything else: answers our paths and passes the rest on untouched."""

    def __init__(self, app: ASGIApp, owner: Starlette, pages: Sequence[OwnPage], guard: Guard) -> None:
        """Let routes of `owner`, the FastAPI app, take precedence: if it has a route `/metrics`, ours is not served."""
        self.app = app
        self.on: bool = bool(pages)
        self._owner = owner
        self._guard = guard
        self._pages = pages
        self._ends = tuple(page.path for page in pages)
        self._warned: set[str] = set()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one of our paths, or pass the request on."""
        page = None
        if self.on and scope["type"] == "http" and scope["path"].endswith(self._ends):
            try:
                page = self._page(scope)
            except Exception as error:  # noqa: BLE001 - the app answers
                self._guard.failed("own_pages", error)
        await (self.app if page is None else page.respond)(scope, receive, send)

    def _page(self, scope: Scope) -> OwnPage | None:
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "")
        page = next((page for page in self._pages if path in {page.path, root_path + page.path}), None)
        if page is not None and has_literal_route(self._owner.routes, page.path):
            self._warn(page)
            return None
        return page

    def _warn(self, page: OwnPage) -> None:
        if page.path not in self._warned:
            self._warned.add(page.path)
            _logger.warning(
                "otel_fastperf: the app has its own route %s, so ours is not served there. Remedy: %s.",
                page.path,
                page.remedy,
            )
