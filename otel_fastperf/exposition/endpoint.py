"""The answer to a scrape, and the ASGI endpoint that sends it without blocking the event loop."""

import gzip
import json
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, wait
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Any, Final

from otel_fastperf.exposition.gathering import gathered
from otel_fastperf.exposition.negotiation import Format, format_for, gzip_accepted
from otel_fastperf.exposition.rendering import Renderer, content_type
from otel_fastperf.exposition.responses import FAILED, NO_THREAD, UNAUTHORIZED, Pace, Page, header, is_bearer
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.waiting import result_of
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings
from otel_fastperf.workers import Workers

#: bytes; gzip is not worth its time for smaller pages
_SMALL: Final = 1024
#: on a page of 6 MB, level 9 takes four times as long (47 ms instead of 12) for a result that is a fifth smaller
_GZIP_LEVEL: Final = 1
#: how compressed data begins
_GZIP: Final = b"\x1f\x8b"
#: how long `close` waits for a page that is being rendered
_CLOSE_SECONDS: Final = 2.0
#: scrapes at once from which a page is kept, and for how many seconds
_CROWD: Final = 8
_KEPT_SECONDS: Final = 1.0
#: what siblings ask for
_PAGE: Final = "page"

#: the format of a page, and whether it is compressed
_Variant = tuple[Format, bool]


NOT_ALLOWED: Final = Page.of(405, b"Only GET and HEAD are allowed.\n", allow="GET, HEAD")


@dataclass(slots=True)
class _Making:
    """A page that is being made.

    Attributes:
        page: The page.
        scrapes: How many wait for it.
    """

    page: Future[Page] = field(default_factory=Future)
    scrapes: int = 1


class Exposition:
    """Answers scrapes for all workers of the service.

    One worker, the leader, makes the pages, so that what a scraper reads never falls, whichever worker it reaches. It
    makes one page at a time; simultaneous scrapes of the same variant share a page, and a crowd of scrapers gets the
    same page for a second.
    """

    def __init__(
        self, metrics: Metrics, settings: MetricsSettings, guard: Guard, workers: Workers | None = None
    ) -> None:
        self._renderer = Renderer(metrics, guard, default_registry=settings.default_registry)
        self.guard = guard
        self._workers = workers
        self._token = settings.bearer_token
        self._pace = Pace()
        self._rendering = threading.Lock()
        self._lock = threading.Lock()
        self._pending: dict[_Variant, _Making] = {}
        self._kept: dict[_Variant, tuple[Page, float]] = {}
        #: by variant that a thread makes for a scraper, the page that comes after it, if somebody waits for that
        self._rounds: dict[_Variant, Future[Page] | None] = {}
        if workers is not None:
            workers.topics[_PAGE] = self._for_sibling

    def page(self, *, accept: str, accept_encoding: str, authorization: str) -> Page:
        """The answer to a scrape with these headers, each `""` if absent. Blocks while it renders."""
        if not self._may_read(authorization):
            return UNAUTHORIZED
        return self._page((format_for(accept), gzip_accepted(accept_encoding)))

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
        await page.send(scope, send, self._pace)

    def close(self) -> None:
        """Wait until no page is being rendered, 2 s at most."""
        with self._lock:
            pending = tuple(making.page for making in self._pending.values())
            self._kept.clear()
        wait(pending, timeout=_CLOSE_SECONDS)

    async def _answer(self, scope: MutableMapping[str, Any]) -> Page:
        if scope["method"] not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if not self._may_read(header(scope, b"authorization")):
            return UNAUTHORIZED
        variant = format_for(header(scope, b"accept")), gzip_accepted(header(scope, b"accept-encoding"))
        future, work = self._joined(variant)
        if work is not None:
            # one thread per page costs 0.1 ms, and leaves nothing to close or to lose in a fork
            thread = threading.Thread(target=work, name="otel_fastperf-exposition", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.guard.failed("exposition", error)
                self._cancel(variant, future)
        # a scraper that disconnects cancels its own wait, not the page that others wait for
        return await result_of(future)

    def _joined(self, variant: _Variant) -> tuple[Future[Page], Callable[[], None] | None]:
        """The page to wait for, and what makes it on a thread, unless one does so already."""
        if self._workers is None or self._workers.is_alone:
            making, is_new = self._join(variant)
            return making.page, partial(self._render, variant, making, frozenset()) if is_new else None
        with self._lock:
            is_new = variant not in self._rounds
            # a page that is under way may be older than what the scraper has seen of another worker
            queued = Future[Page]() if is_new else self._rounds[variant] or Future[Page]()
            if not queued.running():
                queued.set_running_or_notify_cancel()
            self._rounds[variant] = None if is_new else queued
        return queued, partial(self._go_round, variant, queued) if is_new else None

    def _go_round(self, variant: _Variant, page: Future[Page] | None) -> None:
        """Make one page after the other for as long as somebody waits for the next one."""
        while page is not None:
            try:
                made = self._page(variant)
            except Exception as error:  # noqa: BLE001 - a scrape must get an answer in any case
                self.guard.failed("exposition", error)
                made = FAILED
            page.set_result(made)
            with self._lock:
                page = self._rounds[variant]
                if page is None:
                    del self._rounds[variant]
                else:
                    self._rounds[variant] = None

    def _cancel(self, variant: _Variant, page: Future[Page]) -> None:
        with self._lock:
            making = self._pending.get(variant)
            if making is not None and making.page is page:
                del self._pending[variant]
            else:
                # what is pending is made for a sibling
                self._rounds.pop(variant, None)
        page.set_result(NO_THREAD)

    def _may_read(self, authorization: str) -> bool:
        return self._token is None or is_bearer(authorization, self._token.get_secret_value())

    def _page(self, variant: _Variant) -> Page:
        """The page that the leader of the workers has made, or one of our own."""
        workers, silent = self._workers, frozenset[int]()
        if workers is not None and workers.join():
            try:
                body, silent = workers.from_leader(_PAGE, json.dumps([*astuple(variant[0]), variant[1]]))
            except OSError as error:
                self.guard.failed("workers", error)
                body = None
            if body is not None:
                return _page_of(body, *variant)
        return self._shared(variant, silent)

    def _for_sibling(self, asked: str) -> bytes:
        *form, zipped = json.loads(asked)
        page = self._shared((Format(*form), zipped))
        if page.status != 200:  # noqa: PLR2004 - the sibling makes its own
            raise RuntimeError
        return page.body

    def _shared(self, variant: _Variant, silent: frozenset[int] = frozenset()) -> Page:
        """A page that others may have waited for, too."""
        making, is_new = self._join(variant)
        if is_new:
            self._render(variant, making, silent)
        return making.page.result()

    def _join(self, variant: _Variant) -> tuple[_Making, bool]:
        """The page that is kept or already being made, or a new one and True: then the caller must render it."""
        with self._lock:
            kept = self._kept.get(variant)
            if kept is not None and time.monotonic() - kept[1] < _KEPT_SECONDS:
                return _made(kept[0]), False
            making = self._pending.get(variant)
            if making is not None:
                making.scrapes += 1
                return making, False
            making = self._pending[variant] = _Making()
            making.page.set_running_or_notify_cancel()
            return making, True

    def _render(self, variant: _Variant, making: _Making, silent: frozenset[int]) -> None:
        page, since = FAILED, time.monotonic()
        try:
            with self._rendering:
                since = time.monotonic()
                families = gathered(self._renderer, self._workers, self.guard, silent)
                body = self._renderer.body(variant[0], families)
                page = _page_of(_packed(body, zipped=variant[1]), *variant)
        except Exception as error:  # noqa: BLE001 - a scrape must get an answer in any case
            self.guard.failed("exposition", error)
        finally:
            with self._lock:
                del self._pending[variant]
                self._kept.pop(variant, None)
                if making.scrapes >= _CROWD and page is not FAILED:
                    self._kept[variant] = page, since
            making.page.set_result(page)


def _made(page: Page) -> _Making:
    making = _Making()
    making.page.set_result(page)
    return making


def _packed(body: bytes, *, zipped: bool) -> bytes:
    return gzip.compress(body, _GZIP_LEVEL) if zipped and len(body) >= _SMALL else body


def _page_of(body: bytes, form: Format, zipped: bool) -> Page:  # noqa: FBT001 - takes a `_Variant`
    headers = {"vary": "Accept, Accept-Encoding"}
    if zipped and body.startswith(_GZIP):
        headers["content_encoding"] = "gzip"
    return Page.of(200, body, content_type(form), **headers)
