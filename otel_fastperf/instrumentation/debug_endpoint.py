"""The debug route: the report of `telemetry.diagnose()`, for `otel-fastperf doctor`, and allocation sites on demand.

The report contains file names, statements and routes, so access is restricted. If a token is set, requests must carry
it. Without a token, only clients on this machine get an answer; everything else gets 404, as if the route did not
exist. A request counts as local if all of these hold:

- The client's address is loopback.
- No header indicates a proxy: a proxy on this machine passes public requests on from a loopback address.
- The `Host` header names this machine. It would not if a web site had rebound its name to 127.0.0.1.
- It was not sent by another site's page (CSRF).
"""

import ipaddress
import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.types import Scope

from otel_fastperf.exposition.responses import FAILED, NO_THREAD, UNAUTHORIZED, Pace, Page, header, is_bearer
from otel_fastperf.internals.guard import Guard
from otel_fastperf.internals.waiting import result_of
from otel_fastperf.memory.allocations import LONGEST, SHORTEST
from otel_fastperf.report.formats import report_as
from otel_fastperf.report.model import Report
from otel_fastperf.settings import DebugSettings

_NOT_FOUND: Final = Page.of(404, b"Not found.\n")
_NOT_ALLOWED: Final = Page.of(405, b"Only GET, HEAD and POST are allowed.\n", allow="GET, HEAD, POST")
_UNKNOWN_FORMAT: Final = Page.of(400, b"format must be json, text or html.\n")
_INVALID_SECONDS: Final = Page.of(400, f"POST takes ?allocations=<seconds>, {SHORTEST:g} to {LONGEST:g}.\n".encode())

_KINDS: Final = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
#: formats by media type
_MEDIA_TYPES: Final = {"application/json": "json", "text/html": "html", "text/plain": "text"}
#: headers that proxies add; most others begin with `x-`
_PROXY_HEADERS: Final = frozenset({b"forwarded", b"via", b"cdn-loop", b"true-client-ip", b"cf-connecting-ip"})
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[a-zA-Z0-9.-]+))(?::[0-9]{1,5})?")


class DebugEndpoint:
    """ASGI application for one path."""

    def __init__(self, settings: DebugSettings, diagnose: Callable[[], Report], guard: Guard) -> None:
        """`diagnose` is called on a separate thread, because the app may have used up anyio's threads."""
        self._token = settings.token.get_secret_value() if settings.token is not None else None
        self._diagnose = diagnose
        self._guard = guard

    async def __call__(self, scope: Scope, _receive: Any, send: Any) -> None:
        """Answer one HTTP request, whose body is not read."""
        page = self._refusal(scope) or await self._answer(scope)
        await page.send(scope, send, Pace())

    def _refusal(self, scope: Scope) -> Page | None:
        if self._token is not None:
            return None if is_bearer(header(scope, b"authorization"), self._token) else UNAUTHORIZED
        return None if is_from_this_machine(scope) else _NOT_FOUND

    async def _answer(self, scope: Scope) -> Page:
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if scope["method"] == "POST":
            seconds = _seconds(query.get("allocations", ""))
            return _INVALID_SECONDS if seconds is None else await self._made(lambda: _allocations_page(seconds))
        if scope["method"] not in {"GET", "HEAD"}:
            return _NOT_ALLOWED
        form = query.get("format") or _format_for(header(scope, b"accept"))
        if form not in _KINDS:
            return _UNKNOWN_FORMAT
        return await self._made(lambda: _report_page(self._diagnose(), form))

    async def _made(self, make: Callable[[], Page]) -> Page:
        made: Future[Page] = Future()
        # a client that disconnects cancels its wait, not the work
        made.set_running_or_notify_cancel()

        def run() -> None:
            try:
                made.set_result(make())
            except Exception as error:  # noqa: BLE001 - the client must get an answer in any case
                self._guard.failed("debug", error)
                made.set_result(FAILED)

        try:
            threading.Thread(target=run, name="otel_fastperf-debug", daemon=True).start()
        except RuntimeError as error:
            self._guard.failed("debug", error)
            return NO_THREAD
        return await result_of(made)


def is_from_this_machine(scope: Scope) -> bool:
    """True if the client certainly runs on this machine and is not a web page."""
    client = scope.get("client")
    return (
        client is not None
        and _is_loopback(client[0])
        and not _is_from_a_proxy(scope)
        and _names_this_machine(scope)
        and not _is_from_another_site(scope)
    )


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _is_from_a_proxy(scope: Scope) -> bool:
    # by default, nginx sends HTTP/1.0 upstream and adds no header that identifies it
    return scope.get("http_version") == "1.0" or any(
        name.startswith(b"x-") or name in _PROXY_HEADERS for name, _ in scope["headers"]
    )


def _names_this_machine(scope: Scope) -> bool:
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is None:
        return False
    name = host["v6"] or host["name"].lower()
    return name == "localhost" or _is_loopback(name)


def _is_from_another_site(scope: Scope) -> bool:
    # https://www.w3.org/TR/fetch-metadata/ : `none` is an address that the user has entered
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    return b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in {b"none", b"same-origin"}


def _format_for(accept: str) -> str:
    """The first known format in an Accept header; JSON if there is none."""
    for part in accept.lower().split(","):
        form = _MEDIA_TYPES.get(part.partition(";")[0].strip())
        if form is not None:
            return form
    return "json"


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if SHORTEST <= seconds <= LONGEST else None


def _report_page(report: Report, form: str) -> Page:
    headers = {"vary": "Accept, Authorization", "x_content_type_options": "nosniff"}
    return Page.of(200, report_as(report, form).encode(errors="replace"), _KINDS[form], **headers)


def _allocations_page(seconds: float) -> Page:
    from otel_fastperf.errors import AllocationsError
    from otel_fastperf.memory.allocations import allocations

    try:
        found = allocations(seconds)
    except AllocationsError as error:
        return Page.of(409, f"{error}\n".encode())
    return Page.of(200, json.dumps(asdict(found)).encode(), _KINDS["json"], x_content_type_options="nosniff")
