"""The services that the shop calls: a carrier, a warehouse and others, in a thread of the shop's process.

Each takes its time to answer, and for each new connection, as for a TLS handshake and a login.
"""

import json
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

import httpx
from fastapi import Depends, Request

#: seconds that a service takes for a new connection
CONNECT_SECONDS: Final = 0.08
#: service -> seconds that it takes to answer
ANSWER_SECONDS: Final = {
    "carrier": 0.4,
    "prices": 0.12,
    "reviews": 0.12,
    "bonus": 0.12,
    "warehouse": 0.01,
    "bank": 0.005,
}


class Partners:
    """The services of one shop, and a client that keeps its connections to them.

    Attributes:
        url: Their base URL.
        tls: Certificates, which take long to read and are the same for every client.
        client: The client that all requests share.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, client: httpx.AsyncClient) -> None:
        self.url = url
        self.tls = tls
        self.client = client


async def _partners(request: Request) -> Partners:
    there: Partners = request.app.state.partners
    return there


CurrentPartners = Annotated[Partners, Depends(_partners)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Accept a connection."""
        time.sleep(CONNECT_SECONDS)
        super().setup()

    def do_GET(self) -> None:
        """Answer `/SERVICE/ID` and `/SERVICE?ids=ID,ID` with a number for each."""
        url = urlsplit(self.path)
        service, _, item = url.path.strip("/").partition("/")
        time.sleep(ANSWER_SECONDS[service])
        items = parse_qs(url.query).get("ids", [item])[0].split(",")
        numbers = [sum(map(ord, service + each)) % 9 + 1 for each in items]
        body = json.dumps(numbers if url.query else numbers[0]).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Log nothing."""


@asynccontextmanager
async def partners() -> AsyncIterator[Partners]:
    """Run the services."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url, tls = f"http://127.0.0.1:{server.server_port}", ssl.create_default_context()
        try:
            async with httpx.AsyncClient(base_url=url, verify=tls) as client:
                yield Partners(url, tls, client)
        finally:
            server.shutdown()
