"""An OTLP/HTTP receiver that answers 200 and counts spans, so that a variant that loses spans is noticed.

GET returns the number of spans by service name. `python -m benchmarks.sink` prints its port.
"""

import asyncio
import contextlib
import gzip
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_DECODERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}


#: spans by service name
Received = Counter[str]


async def serve() -> None:
    """Serve on a free port of 127.0.0.1 until the process ends; print the port."""
    received: Received = Counter()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                await _answer(reader, writer, received)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: Received) -> None:
    """Read one request and answer it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    first, *lines = head.split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    answer = b""
    if first.startswith("post"):
        received += _spans(_DECODERS[headers.get("content-encoding", "")](body))
    else:
        answer = json.dumps(received).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
    await writer.drain()


def _spans(body: bytes) -> Received:
    spans: Received = Counter()
    for part in ExportTraceServiceRequest.FromString(body).resource_spans:
        names = (each.value.string_value for each in part.resource.attributes if each.key == "service.name")
        spans[next(names, "")] += sum(len(scope.spans) for scope in part.scope_spans)
    return spans


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    sys.exit()
