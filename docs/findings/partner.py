"""A service that the examples of these pages call: it answers `GET /NAME/MILLISECONDS` after that time."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer after the milliseconds at the end of the path."""
        milliseconds = self.path.partition("?")[0].rpartition("/")[2]
        time.sleep(int(milliseconds) / 1000)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "1")
        self.end_headers()
        self.wfile.write(b"3")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Log nothing."""


_server: Final = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
threading.Thread(target=_server.serve_forever, daemon=True).start()

#: base URL
PARTNER: Final = f"http://127.0.0.1:{_server.server_port}"
