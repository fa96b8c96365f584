"""Span attributes of an HTTP request, from its ASGI scope: stable semantic conventions, without secrets.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from collections.abc import Container, Iterable
from typing import Any, Final

from opentelemetry.util.http import SanitizeValue, normalise_request_header_name, normalise_response_header_name
from starlette.types import Message, Scope

from otel_fastperf.internals.urls import redacted_query, without_userinfo
from otel_fastperf.settings import RequestsSettings
from otel_fastperf.tracing.shared_attributes import SharedAttributes

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
#: shared attributes that are kept, and the most bytes of the client's that each may keep
_MOST_KEPT: Final = 512
_LONGEST_KEPT: Final = 1024


class RequestAttributes:
    """Settings of requests, prepared for use. Shared by all requests of an app."""

    def __init__(self, settings: RequestsSettings) -> None:
        """Compile the sanitiser."""
        self._length = settings.attribute_length
        self._methods = frozenset(settings.known_methods)
        self._kept_of_query: Container[str] = _AllButSigned() if settings.capture_query_values else ()
        self._sanitize = SanitizeValue(list(settings.sanitize_headers))
        self._request_headers = list(settings.capture_request_headers)
        self._response_headers = list(settings.capture_response_headers)
        self._shared: dict[tuple[object, ...], SharedAttributes] = {}

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
        return {**self.shared(scope, None, None), **self.own(scope)}

    def shared(self, scope: Scope, route: str | None, status: int | None) -> SharedAttributes:
        """The attributes that a request has in common with other requests of its route and its kind of client."""
        host, agent = _host_and_agent(scope)
        scheme, version = scope.get("scheme", "http"), scope.get("http_version", "1.1")
        server = scope.get("server")
        if type(server) is list:  # ASGI calls it an iterable
            server = tuple(server)
        kind = (self.method(scope), scheme, version, host, agent, server, scope["type"], route, status)
        shared = self._shared.get(kind)
        if shared is None:
            shared = SharedAttributes(self._computed(scope, host.decode("latin-1"), agent.decode("latin-1")))
            if route is not None:
                shared["http.route"] = route
            if status is not None:
                shared["http.response.status_code"] = status
            if len(host) + len(agent) <= _LONGEST_KEPT:
                if len(self._shared) >= _MOST_KEPT:
                    self._shared.clear()
                self._shared[kind] = shared
        return shared

    def own(self, scope: Scope) -> dict[str, Any]:
        """The attributes that differ between requests of one kind."""
        length = self._length
        # an absolute-form target is the path of some servers: http://user:password@host/path
        attributes: dict[str, Any] = {"url.path": without_userinfo(scope["path"])[:length]}
        query: bytes = scope.get("query_string", b"")
        if query:
            attributes["url.query"] = redacted_query(query.decode("latin-1"), self._kept_of_query)[:length]
        client = scope.get("client")
        if client:
            attributes["client.address"] = attributes["network.peer.address"] = client[0]
            attributes["client.port"] = attributes["network.peer.port"] = client[1]
        if self.method(scope) == OTHER_METHOD:
            attributes["http.request.method_original"] = scope["method"][:length]
        if self._request_headers:
            captured = self._sanitize.sanitize_header_values(
                decoded(scope["headers"]), self._request_headers, normalise_request_header_name
            )
            attributes |= {name: tuple(value[:length] for value in values) for name, values in captured.items()}
        return attributes

    def _computed(self, scope: Scope, host: str, agent: str) -> dict[str, Any]:
        scheme, length = scope.get("scheme", "http"), self._length
        attributes = {
            "http.request.method": self.method(scope),
            "url.scheme": scheme,
            "network.protocol.version": scope.get("http_version", "1.1"),
        }
        if scope["type"] == "websocket":
            attributes["network.protocol.name"] = "websocket"
        # the Host header, else the socket
        address, port = _host_and_port(host) if host else (scope.get("server") or ("", None))
        address = address.rpartition("@")[2]
        if address:
            attributes["server.address"] = address[:length]
            attributes["server.port"] = port or _DEFAULT_PORTS.get(scheme, 80)
        if agent:
            attributes["user_agent.original"] = agent[:length]
        return attributes

    def of_response(self, message: Message) -> dict[str, Any]:
        """The response headers that settings ask for, as `http.response.header.<name>`."""
        found: dict[str, Any] = self._sanitize.sanitize_header_values(
            decoded(message.get("headers", ())), self._response_headers, normalise_response_header_name
        )
        return found


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


def _host_and_agent(scope: Scope) -> tuple[bytes, bytes]:
    """The values of these headers, each the first of several; empty if there is none."""
    host = agent = b""
    for name, value in scope["headers"]:
        key = name.lower()
        if key == b"host":
            host = host or value
        elif key == b"user-agent":
            agent = agent or value
    return host, agent


class _AllButSigned:
    """The query parameters that keep their values if settings say so, and parts without a value."""

    def __contains__(self, key: object) -> bool:
        return key not in _ALWAYS_REDACTED


def _host_and_port(host: str) -> tuple[str, int | None]:
    bracket = host.rfind("]")
    name, colon, digits = host.rpartition(":")
    if not colon or host.rfind(":") < bracket:
        return host, None
    is_port = digits.isascii() and digits.isdigit() and len(digits) <= len("65535")
    return (name, int(digits)) if is_port else (host, None)
