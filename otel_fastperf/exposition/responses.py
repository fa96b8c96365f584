"""HTTP responses of our own, and the request headers that they depend on."""

import hmac
from dataclasses import dataclass
from typing import Final, Self

from starlette.types import Scope, Send


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

    async def send(self, scope: Scope, send: Send) -> None:
        """Send the page as the answer to an ASGI request; without its body for HEAD."""
        await send({"type": "http.response.start", "status": self.status, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.body})


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
