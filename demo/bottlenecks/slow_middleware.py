"""`slow_middleware`: a middleware signs every response and derives its key anew each time.

Both middlewares are installed on the whole app, as middleware is, and ignore every path except their own.
"""

import hashlib
import hmac
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.burning import at_speed, calibrated

router = APIRouter(tags=["slow_middleware"])

HEADER: Final = "x-signature"
SLOW_PATH: Final = "/slow/slow-middleware"
FAST_PATH: Final = "/fast/slow-middleware"

#: CPU time for deriving the key: twice the threshold of `slow_middleware`, a fifth of that of `blocking_call`. A busy
#: machine multiplies it; from 0.1 s on it would count as a block instead of as the middleware's own time
DERIVING_SECONDS: Final = 0.02


@router.get(SLOW_PATH)
@router.get(FAST_PATH)
async def terms() -> dict[str, str]:
    """Return the shop's terms."""
    return {"terms": "Thirty days."}


def add_middlewares(app: FastAPI) -> None:
    """Install both middlewares on the app."""
    rounds = calibrated(derive_key, DERIVING_SECONDS, first=1_000)
    app.add_middleware(DerivingSigner, rounds=rounds)
    app.add_middleware(Signer, rounds=rounds)


def derive_key(rounds: int) -> bytes:
    """Derive a key from the shop's password. Key derivation is slow on purpose."""
    return hashlib.pbkdf2_hmac("sha256", b"the shop's password", b"salt", at_speed(rounds))


def sign(key: bytes, text: str) -> str:
    """Return the signature of `text`, in hexadecimal digits."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


class DerivingSigner(BaseHTTPMiddleware):
    """Derives the key for each response."""

    def __init__(self, app: ASGIApp, rounds: int) -> None:
        super().__init__(app)
        self.rounds = rounds

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Add the signature to the response."""
        response = await call_next(request)
        if request.url.path == SLOW_PATH:
            response.headers[HEADER] = sign(derive_key(self.rounds), "terms")
        return response


class Signer:
    """Derives the key once. Pure ASGI, so a request needs no additional task."""

    def __init__(self, app: ASGIApp, rounds: int) -> None:
        self.app = app
        self.signature = sign(derive_key(rounds), "terms")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the signature when its response starts."""
        if scope["type"] != "http" or scope["path"] != FAST_PATH:
            await self.app(scope, receive, send)
            return

        async def send_signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = self.signature
            await send(message)

        await self.app(scope, receive, send_signed)
