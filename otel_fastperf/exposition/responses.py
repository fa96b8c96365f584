"""HTTP responses of our own, and the request headers that they depend on."""

import asyncio
import hmac
import time
from dataclasses import dataclass
from typing import Final, Self

import anyio
from starlette.types import Scope, Send

from otel_fastperf.internals.waiting import running_loop

#: bytes sent in one go, which takes some 20 microseconds
_PIECE: Final = 64 * 1024
#: seconds from one piece to the next, whoever gets it
_SPACING: Final = 0.00025
#: seconds that pieces may be early: timers of an event loop have a resolution of a millisecond
_EARLY: Final = 0.001


class Pace:
    """Spreads over time what many scrapers are sent at once: the event loop has the app's requests to serve, too."""

    def __init__(self) -> None:
        self._due: float = 0.0

    async def __call__(self) -> None:
        """Wait until the next piece may be sent. Nobody waits for a scraper that reads slowly."""
        now = time.monotonic()
        self._due = max(self._due, now) + _SPACING
        early = self._due - now
        await (asyncio if running_loop() else anyio).sleep(early if early > _EARLY else 0)


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP response: lower-case header names, `content-length` included."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @classmethod
    def of(cls, status: int, body: bytes, kind: str = "text/plain; charset=utf-8", **headers: str) -> Self:
        """Make a page that is never cached. `www_authenticate="Bearer"` becomes the header `www-authenticate`."""
        fields = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", **headers}
        return cls(
            status, tuple((name.replace("_", "-").encode(), text.encode()) for name, text in fields.items()), body
        )

    async def send(self, scope: Scope, send: Send, pace: Pace) -> None:
        """Send the page as the answer to an ASGI request; without its body for HEAD."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        body = b"" if scope["method"] == "HEAD" else self.body
        for end in range(_PIECE, len(body), _PIECE):
            await send({"type": "http.response.body", "body": body[end - _PIECE : end], "more_body": True})
            await pace()
        last = max(len(body) - 1, 0) // _PIECE * _PIECE
        await send({"type": "http.response.body", "body": body[last:]})


UNAUTHORIZED: Final = Page.of(401, b"A bearer token is required.\n", www_authenticate="Bearer")
NO_THREAD: Final = Page.of(503, b"No thread could be started to render the page.\n")
FAILED: Final = Page.of(500, b"The page could not be rendered; see the log.\n")


def header(scope: Scope, name: bytes) -> str:
    """A request header, `""` if absent; several with one name are joined by commas, as in RFC 9110 (5.3)."""
    return b", ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def is_bearer(authorization: str, token: str) -> bool:
    """True if the header `Authorization` contains this bearer token. Compares in constant time."""
    scheme, _, given = authorization.strip().partition(" ")
    # ASGI and http.server decode headers as latin-1: this restores the bytes that were sent
    same = hmac.compare_digest(
        given.strip().encode("latin-1", "backslashreplace"), token.encode(errors="surrogateescape")
    )
    return same and scheme.lower() == "bearer"
