"""The HTTP client of the command: one request, one bounded response, no proxy for this machine."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

#: bytes of a body; the rest is not read
MOST_BYTES: Final = 64 * 1024 * 1024


class NoResponseError(Exception):
    """The server gave no response. The message is the reason, or "" if it is unknown."""

    def __init__(self, reason: object) -> None:
        super().__init__(str(reason) or type(reason).__name__)
        self.timed_out: Final = isinstance(reason, TimeoutError)
        self.refused: Final = isinstance(reason, ConnectionRefusedError)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response of any status. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004 - statuses


def http_request(
    method: str,
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    most_bytes: int = MOST_BYTES,
    follow_redirects: bool = False,
    bypass_proxy: bool = False,
) -> HttpResponse:
    """Send one request to an `http` or `https` URL; `timeout` is in seconds and applies to each read.

    Without `bypass_proxy`, HTTP_PROXY and its kind apply to all hosts but this machine.

    Raises:
        NoResponseError: The server cannot be reached, is silent, or does not speak HTTP.
        ValueError: The URL is malformed.
    """
    request = Request(url, data=body, method=method, headers={"user-agent": "otel-fastperf", **(headers or {})})  # noqa: S310 - the caller's URL is http or https
    is_direct = bypass_proxy or _is_loopback(urlsplit(url).hostname or "")
    opener = _opener(is_direct=is_direct, follow_redirects=follow_redirects)
    try:
        try:
            response = opener.open(request, timeout=timeout)
        except HTTPError as error:
            response = error  # a response, too
        with response:
            return HttpResponse(response.status, _lower(response.headers), response.read(most_bytes))
    except URLError as error:
        raise NoResponseError(error.reason) from None
    except (HTTPException, OSError, UnicodeError) as error:
        raise NoResponseError(error) from None


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _NoRedirects(HTTPRedirectHandler):
    """A token is meant for one host; a redirect could send it to another."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        """Return None: the redirect itself is the response."""


def _opener(*, is_direct: bool, follow_redirects: bool) -> OpenerDirector:
    handlers: list[BaseHandler] = []
    if is_direct:
        handlers.append(ProxyHandler({}))
    if not follow_redirects:
        handlers.append(_NoRedirects())
    return build_opener(*handlers)


def _is_loopback(host: str) -> bool:
    """Whether the host is this machine; seen from a proxy, `localhost` is another one."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
