"""The answer to a scrape, and the ASGI endpoint that gives it without holding up the event loop."""

import asyncio
import gzip
import hmac
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final, Self

from otel_fastperf.exposition.negotiation import Format, format_for, gzip_accepted
from otel_fastperf.exposition.rendering import Renderer, content_type
from otel_fastperf.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MetricsSettings

#: below this, gzip saves nothing that is worth its time
_SMALL: Final = 1024
#: measured on a page of 6 MB: level 9 takes four times as long (47 ms, not 12) and is a fifth smaller
_GZIP_LEVEL: Final = 1
#: how long `close` waits for a page that is being rendered
_CLOSE_SECONDS: Final = 2.0

_Wanted = tuple[Format, bool]


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP response: lower-case header names, `content-length` included."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @classmethod
    def of(cls, status: int, body: bytes, kind: str = "text/plain; charset=utf-8", **headers: str) -> Self:
        """A page that no cache keeps. `www_authenticate="Bearer"` becomes the header `www-authenticate`."""
        fields = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", **headers}
        return cls(
            status, tuple((name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()), body
        )


_UNAUTHORIZED: Final = Page.of(401, b"A bearer token is needed.\n", www_authenticate="Bearer")
NOT_ALLOWED: Final = Page.of(405, b"Only GET and HEAD are allowed.\n", allow="GET, HEAD")
_FAILED: Final = Page.of(500, b"The page could not be rendered; see the log.\n")
_NO_THREAD: Final = Page.of(503, b"No thread could be started to render the page.\n")


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
            return _UNAUTHORIZED
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
        await send({"type": "http.response.start", "status": page.status, "headers": list(page.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page.body})

    def close(self) -> None:
        """Wait until no page is being rendered, 2 s at most."""
        with self._lock:
            coming = tuple(self._coming.values())
        wait(coming, timeout=_CLOSE_SECONDS)

    async def _answer(self, scope: MutableMapping[str, Any]) -> Page:
        if scope["method"] not in {"GET", "HEAD"}:
            return NOT_ALLOWED
        if not self._may_read(_header(scope, b"authorization")):
            return _UNAUTHORIZED
        wanted = format_for(_header(scope, b"accept")), gzip_accepted(_header(scope, b"accept-encoding"))
        coming, is_new = self._join(wanted)
        if is_new:
            self._start(wanted, coming)
        return await asyncio.wrap_future(coming)

    def _may_read(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.strip().partition(" ")
        token = self._token.get_secret_value().encode(errors="surrogateescape")
        # ASGI and http.server hand over latin-1: this gives back the bytes that were sent
        same = hmac.compare_digest(given.strip().encode("latin-1", "backslashreplace"), token)
        return same and scheme.lower() == "bearer"

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
            self._settle(wanted, coming, _NO_THREAD)

    def _render(self, wanted: _Wanted, coming: Future[Page]) -> None:
        page = _FAILED
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


def _header(scope: MutableMapping[str, Any], name: bytes) -> str:
    """A request header; several of one name are one list, as RFC 9110 (5.3) has it."""
    return b", ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")
