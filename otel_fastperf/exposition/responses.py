"""HTTP responses of our own: what a page is, who asks for it, and how it is sent."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Self

Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Any, Any], Awaitable[None]]


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

    async def send(self, scope: Scope, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
        """As the answer to an ASGI request; without its body for HEAD."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


UNAUTHORIZED: Final = Page.of(401, b"A bearer token is needed.\n", www_authenticate="Bearer")
NO_THREAD: Final = Page.of(503, b"No thread could be started to render the page.\n")
FAILED: Final = Page.of(500, b"The page could not be rendered; see the log.\n")


def header(scope: Scope, name: bytes) -> str:
    """A request header; several of one name are one list, as RFC 9110 (5.3) has it."""
    return b", ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def is_bearer(authorization: str, token: str) -> bool:
    """Does the header `Authorization` carry this bearer token? Takes as long for a wrong one as for a right one."""
    scheme, _, given = authorization.strip().partition(" ")
    # ASGI and http.server hand over latin-1: this gives back the bytes that were sent
    same = hmac.compare_digest(
        given.strip().encode("latin-1", "backslashreplace"), token.encode(errors="surrogateescape")
    )
    return same and scheme.lower() == "bearer"
