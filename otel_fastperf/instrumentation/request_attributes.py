"""Span attributes of an HTTP request, from its ASGI scope: stable semantic conventions, without secrets.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from collections.abc import Container, Iterable
from typing import Any, Final

from opentelemetry.util.http import SanitizeValue, normalise_request_header_name, normalise_response_header_name
from starlette.types import Message, Scope

from otel_fastperf.settings import RequestsSettings

#: headers by name in lower case, each with its values in order
Headers = dict[str, list[str]]

#: method of requests whose method is not one of `requests.known_methods`
OTHER_METHOD: Final = "_OTHER"

#: query keys whose values the conventions always redact: signatures of, and keys to, object storage
_ALWAYS_REDACTED: Final = frozenset(
    {
        "AWSAccessKeyId",
        "Signature",
        "sig",
        "X-Goog-Signature",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Amz-Security-Token",
    }
)
_DEFAULT_PORTS: Final = {"https": 443, "wss": 443}
#: headers that become attributes without any setting
_ALWAYS_READ: Final = frozenset({b"host", b"user-agent"})


class RequestAttributes:
    """Settings of requests, prepared for use. Shared by all requests of an app."""

    def __init__(self, settings: RequestsSettings) -> None:
        """Compile the sanitiser."""
        self._length = settings.attribute_length
        self._methods = frozenset(settings.known_methods)
        self._query_values = settings.capture_query_values
        self._sanitize = SanitizeValue(list(settings.sanitize_headers))
        self._request_headers = list(settings.capture_request_headers)
        self._response_headers = list(settings.capture_response_headers)

    @property
    def captures_response_headers(self) -> bool:
        """Whether `of_response` can return anything."""
        return bool(self._response_headers)

    def method(self, scope: Scope) -> str:
        """The method as attribute and label: `_OTHER` if it is not in the known list. A handshake is a GET."""
        method: str = scope.get("method", "GET")
        return method if method in self._methods else OTHER_METHOD

    def of_request(self, scope: Scope) -> dict[str, Any]:
        """What is known of a request when it arrives."""
        headers = decoded(scope["headers"], None if self._request_headers else _ALWAYS_READ)
        length = self._length
        attributes: dict[str, Any] = {
            "http.request.method": self.method(scope),
            "url.scheme": scope.get("scheme", "http"),
            "url.path": scope["path"][:length],
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
        if attributes["http.request.method"] == OTHER_METHOD:
            attributes["http.request.method_original"] = scope["method"][:length]
        if scope["type"] == "websocket":
            attributes["network.protocol.name"] = "websocket"
        query: bytes = scope.get("query_string", b"")
        if query:
            attributes["url.query"] = _redacted(query.decode("latin-1"), keep_values=self._query_values)[:length]
        self._add_server(attributes, headers, scope)
        client = scope.get("client")
        if client:
            attributes["client.address"] = attributes["network.peer.address"] = client[0]
            attributes["client.port"] = attributes["network.peer.port"] = client[1]
        agent = headers.get("user-agent")
        if agent:
            attributes["user_agent.original"] = agent[0][:length]
        if self._request_headers:
            captured = self._sanitize.sanitize_header_values(
                headers, self._request_headers, normalise_request_header_name
            )
            attributes |= {name: [value[:length] for value in values] for name, values in captured.items()}
        return attributes

    def of_response(self, message: Message) -> dict[str, Any]:
        """The response headers that settings ask for, as `http.response.header.<name>`."""
        found: dict[str, Any] = self._sanitize.sanitize_header_values(
            decoded(message.get("headers", ())), self._response_headers, normalise_response_header_name
        )
        return found

    def _add_server(self, attributes: dict[str, Any], headers: Headers, scope: Scope) -> None:
        """`server.address` and `server.port` from the Host header, else from the socket."""
        host = headers.get("host", [""])[0]
        address, port = _host_and_port(host) if host else (scope.get("server") or ("", None))
        if address:
            attributes["server.address"] = address[: self._length]
            attributes["server.port"] = port or _DEFAULT_PORTS.get(scope.get("scheme", "http"), 80)


def span_method(method: str) -> str:
    """The method as it begins a span's name; for an unknown method semconv prescribes `HTTP`."""
    return "HTTP" if method == OTHER_METHOD else method


def decoded(headers: Iterable[tuple[bytes, bytes]], wanted: Container[bytes] | None = None) -> Headers:
    """Headers by name: the wanted ones, or all. No header that a client can send fails here: latin-1 takes any byte."""
    found: Headers = {}
    for name, value in headers:
        key = name.lower()
        if wanted is None or key in wanted:
            found.setdefault(key.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


def _redacted(query: str, *, keep_values: bool) -> str:
    shown = []
    for part in query.split("&"):
        key, equals, _ = part.partition("=")
        keep = not equals or (keep_values and key not in _ALWAYS_REDACTED)
        shown.append(part if keep else f"{key}=REDACTED")
    return "&".join(shown)


def _host_and_port(host: str) -> tuple[str, int | None]:
    bracket = host.rfind("]")
    name, colon, digits = host.rpartition(":")
    if not colon or host.rfind(":") < bracket:
        return host, None
    is_port = digits.isascii() and digits.isdigit() and len(digits) <= len("65535")
    return (name, int(digits)) if is_port else (host, None)
