"""`slow_middleware`: a signature on every response, made with a key that is derived anew each time.

Both middlewares are on the whole app, as middleware is, and leave every path but their own alone.
"""

import hashlib
import hmac
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

router = APIRouter(tags=["slow_middleware"])

HEADER: Final = "x-signature"
ROUNDS: Final = 40_000
SLOW_PATH: Final = "/slow/slow-middleware"
FAST_PATH: Final = "/fast/slow-middleware"


@router.get(SLOW_PATH)
@router.get(FAST_PATH)
async def terms() -> dict[str, str]:
    """The shop's terms."""
    return {"terms": "Thirty days."}


def add_middlewares(app: FastAPI) -> None:
    """Put both on the app."""
    app.add_middleware(DerivingSigner)
    app.add_middleware(Signer)


def derive_key() -> bytes:
    """A key from the shop's password: slow on purpose, as key derivation has to be."""
    return hashlib.pbkdf2_hmac("sha256", b"the shop's password", b"salt", ROUNDS)


def sign(key: bytes, text: str) -> str:
    """Signature of `text`, in hexadecimal digits."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class DerivingSigner(BaseHTTPMiddleware):
    """Derives the key for each response."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Add the signature."""
        response = await call_next(request)
        if request.url.path == SLOW_PATH:
            response.headers[HEADER] = sign(derive_key(), "terms")
        return response


class Signer:
    """Derives the key once; pure ASGI, so that a request passes through without a task of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.signature = sign(derive_key(), "terms")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the signature to the start of its response."""
        if scope["type"] != "http" or scope["path"] != FAST_PATH:
            await self.app(scope, receive, send)
            return

        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = self.signature
            await send(message)

        await self.app(scope, receive, send_signed)
