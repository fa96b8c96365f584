"""The answer to a scrape, and the ASGI endpoint that sends it without blocking the event loop."""

import asyncio
import gzip
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, wait
from typing import Any, Final

from otel_fastperf.exposition.negotiation import Format, format_for, gzip_accepted
from otel_fastperf.exposition.rendering import Renderer, content_type
from otel_fastperf.exposition.responses import FAILED, NO_THREAD, UNAUTHORIZED, Page, header, is_bearer
from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings

#: bytes; gzip is not worth its time for smaller pages
_SMALL: Final = 1024
#: on a page of 6 MB, level 9 takes four times as long (47 ms instead of 12) for a result that is a fifth smaller
_GZIP_LEVEL: Final = 1
#: how long `close` waits for a page that is being rendered
_CLOSE_SECONDS: Final = 2.0

#: the format of a page, and whether it is compressed
_Variant = tuple[Format, bool]


NOT_ALLOWED: Final = Page.of(405, b"Only GET and HEAD are allowed.\n", allow="GET, HEAD")


class Exposition:
    """Answers scrapes. Renders one page at a time; simultaneous scrapes of the same variant share a page."""

    def __init__(self, metrics: Metrics, settings: MetricsSettings, guard: Guard) -> None:
        self._renderer = Renderer(metrics, guard, default_registry=settings.default_registry)
        self.guard = guard
        self._token = settings.bearer_token
        self._rendering = threading.Lock()
        self._lock = threading.Lock()
        self._pending: dict[_Variant, Future[Page]] = {}

    def page(self, *, accept: str, accept_encoding: str, authorization: str) -> Page:
        """The answer to a scrape with these headers, each `""` if absent. Blocks while it renders."""
        if not self._may_read(authorization):
            return UNAUTHORIZED
        variant = format_for(accept), gzip_accepted(accept_encoding)
        pending, is_new = self._join(variant)
        if is_new:
            self._render(variant, pending)
        return pending.result()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],  # noqa: ARG002 - bodies are not read
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one HTTP request. The page is rendered on a separate thread.

        anyio's threads and the loop's executor would not do: metrics matter most when the app has used those up.
        """
        page = await self._answer(scope)
        await page.send(scope, send)

    def close(self) -> None:
        """Wait until no page is being rendered, 2 s at most."""
        with self._lock:
            pending = tuple(self._pending.values())
        wait(pending, timeout=_CLOSE_SECONDS)

    async def _answer(self, scope: MutableMapping[str, Any]) -> Page:
        if scope["method"] not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if not self._may_read(header(scope, b"authorization")):
            return UNAUTHORIZED
        variant = format_for(header(scope, b"accept")), gzip_accepted(header(scope, b"accept-encoding"))
        pending, is_new = self._join(variant)
        if is_new:
            self._start(variant, pending)
        return await asyncio.wrap_future(pending)

    def _may_read(self, authorization: str) -> bool:
        return self._token is None or is_bearer(authorization, self._token.get_secret_value())

    def _join(self, variant: _Variant) -> tuple[Future[Page], bool]:
        """The page that is already being made, or a new one and True: then the caller must have it rendered."""
        with self._lock:
            pending = self._pending.get(variant)
            if pending is not None:
                return pending, False
            pending = self._pending[variant] = Future()
            # a scraper that disconnects cancels its own wait, not the page that others wait for
            pending.set_running_or_notify_cancel()
            return pending, True

    def _start(self, variant: _Variant, pending: Future[Page]) -> None:
        # one thread per page costs 0.1 ms per scrape, and leaves nothing to close or to lose in a fork
        thread = threading.Thread(
            target=self._render, args=(variant, pending), name="otel_fastperf-exposition", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self.guard.failed("exposition", error)
            self._settle(variant, pending, NO_THREAD)

    def _render(self, variant: _Variant, pending: Future[Page]) -> None:
        page = FAILED
        try:
            with self._rendering:
                page = _packed(self._renderer.body(variant[0]), *variant)
        except Exception as error:  # noqa: BLE001 - waiting scrapers must get an answer in any case
            self.guard.failed("exposition", error)
        finally:
            self._settle(variant, pending, page)

    def _settle(self, variant: _Variant, pending: Future[Page], page: Page) -> None:
        with self._lock:
            del self._pending[variant]
        pending.set_result(page)


def _packed(body: bytes, form: Format, zipped: bool) -> Page:  # noqa: FBT001 - takes a `_Variant`
    headers = {"vary": "Accept, Accept-Encoding"}
    if zipped and len(body) >= _SMALL:
        body = gzip.compress(body, _GZIP_LEVEL)
        headers["content_encoding"] = "gzip"
    return Page.of(200, body, content_type(form), **headers)
