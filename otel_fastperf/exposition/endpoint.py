"""The answer to a scrape, and the ASGI endpoint that gives it without holding up the event loop."""

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

#: below this, gzip saves nothing that is worth its time
_SMALL: Final = 1024
#: measured on a page of 6 MB: level 9 takes four times as long (47 ms, not 12) and is a fifth smaller
_GZIP_LEVEL: Final = 1
#: how long `close` waits for a page that is being rendered
_CLOSE_SECONDS: Final = 2.0

_Wanted = tuple[Format, bool]


NOT_ALLOWED: Final = Page.of(405, b"Only GET and HEAD are allowed.\n", allow="GET, HEAD")


class Exposition:
    """Answers scrapes, one page at a time; scrapes that want the same page at the same time share it."""

    def __init__(self, metrics: Metrics, settings: MetricsSettings, guard: Guard) -> None:
        self._renderer = Renderer(metrics, guard, default_registry=settings.default_registry)
        self.guard = guard
        self._token = settings.bearer_token
        self._rendering = threading.Lock()
        self._lock = threading.Lock()
        self._coming: dict[_Wanted, Future[Page]] = {}

    def page(self, *, accept: str, accept_encoding: str, authorization: str) -> Page:
        """The answer to a scrape with these headers (`""` for one that is absent). Blocks while it renders."""
        if not self._may_read(authorization):
            return UNAUTHORIZED
        wanted = format_for(accept), gzip_accepted(accept_encoding)
        coming, is_new = self._join(wanted)
        if is_new:
            self._render(wanted, coming)
        return coming.result()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],  # noqa: ARG002 - no method has a body to read
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one HTTP request. The page is rendered on a thread of its own.

        Not on anyio's threads nor on the loop's executor: an app that has used them up is the one to look at.
        """
        page = await self._answer(scope)
        await page.send(scope, send)

    def close(self) -> None:
        """Wait until no page is being rendered, 2 s at most."""
        with self._lock:
            coming = tuple(self._coming.values())
        wait(coming, timeout=_CLOSE_SECONDS)

    async def _answer(self, scope: MutableMapping[str, Any]) -> Page:
        if scope["method"] not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if not self._may_read(header(scope, b"authorization")):
            return UNAUTHORIZED
        wanted = format_for(header(scope, b"accept")), gzip_accepted(header(scope, b"accept-encoding"))
        coming, is_new = self._join(wanted)
        if is_new:
            self._start(wanted, coming)
        return await asyncio.wrap_future(coming)

    def _may_read(self, authorization: str) -> bool:
        return self._token is None or is_bearer(authorization, self._token.get_secret_value())

    def _join(self, wanted: _Wanted) -> tuple[Future[Page], bool]:
        """The page that is on its way, or a new one and True: the caller then has to see that it is rendered."""
        with self._lock:
            coming = self._coming.get(wanted)
            if coming is not None:
                return coming, False
            coming = self._coming[wanted] = Future()
            # a scraper that hangs up cancels its wait, not the page of the others
            coming.set_running_or_notify_cancel()
            return coming, True

    def _start(self, wanted: _Wanted, coming: Future[Page]) -> None:
        # a thread for each page: nothing to keep, to close or to lose in a fork, for 0.1 ms each scrape
        thread = threading.Thread(
            target=self._render, args=(wanted, coming), name="otel_fastperf-exposition", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self.guard.failed("exposition", error)
            self._settle(wanted, coming, NO_THREAD)

    def _render(self, wanted: _Wanted, coming: Future[Page]) -> None:
        page = FAILED
        try:
            with self._rendering:
                page = _packed(self._renderer.body(wanted[0]), *wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait get an answer
            self.guard.failed("exposition", error)
        finally:
            self._settle(wanted, coming, page)

    def _settle(self, wanted: _Wanted, coming: Future[Page], page: Page) -> None:
        with self._lock:
            del self._coming[wanted]
        coming.set_result(page)


def _packed(body: bytes, form: Format, zipped: bool) -> Page:  # noqa: FBT001 - one of two, as it was negotiated
    headers = {"vary": "Accept, Accept-Encoding"}
    if zipped and len(body) >= _SMALL:
        body = gzip.compress(body, _GZIP_LEVEL)
        headers["content_encoding"] = "gzip"
    return Page.of(200, body, content_type(form), **headers)
