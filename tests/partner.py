"""Another service, for tests of outgoing calls: a real HTTP server in a thread of this process."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """`/STATUS/MILLISECONDS/…`: answer with the headers of the request; with `?late`, wait after the first byte."""
        status, milliseconds = self.path.partition("?")[0].split("/")[1:3]
        late = self.path.endswith("?late")
        time.sleep(0 if late else int(milliseconds) / 1000)
        body = json.dumps(dict(self.headers.items())).encode()
        self.send_response(int(status))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1])
        self.wfile.flush()
        time.sleep(int(milliseconds) / 1000 if late else 0)
        self.wfile.write(body[1:])

    def do_POST(self) -> None:
        """The same, whatever the body is."""
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        """Log nothing."""


@contextmanager
def partner() -> Iterator[str]:
    """The base URL of the service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
