"""Reads from the attributes of a span which call to another service it stands for.

Both generations of the semantic conventions are understood: instrumentations use the old names unless
`OTEL_SEMCONV_STABILITY_OPT_IN` says otherwise.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from otel_fastperf.internals.open_labels import status_label
from otel_fastperf.requests.calls import CallFacts
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import HTTP_METHODS
from otel_fastperf.sql.describe import QueryTexts

#: systems that keep values by key
_CACHES: Final = ("redis", "memcached", "valkey", "memcache", "keydb", "dragonfly")
#: database systems whose statements are SQL
_SQL: Final = ("postgresql", "mysql", "mariadb", "sqlite", "mssql", "microsoft.sql_server", "oracle", "cockroachdb")
#: commands that wait until something happens
_WAITING: Final = frozenset(
    (
        *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN"),
        *("PSUBSCRIBE", "SUBSCRIBE", "WAIT", "XREAD", "XREADGROUP"),
    )
)
#: parameters that select one page of many
_PAGES: Final = frozenset(
    (
        *("after", "before", "continuation", "continuationtoken", "cursor", "marker", "next", "nexttoken", "offset"),
        *("p", "page", "page_number", "page_token", "pagenumber", "pagetoken", "skip", "starting_after"),
    )
)
#: a segment of a path that names one item: a number, a UUID, a hash, a word with digits in it
_ID: Final = re.compile(r"[0-9]+|[0-9a-fA-F]{8,}|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|(?=.*[0-9])[\w.~:@%+-]{6,}|[^/]{40,}")
_VERSION: Final = re.compile(r"v[0-9.]+")
#: bounds: of the segments of a path, and of a name
_MOST_SEGMENTS: Final = 12
_LONGEST: Final = 128

#: `error.type` of a call whose instrumentation does not say why it failed
_FAILED: Final = "_OTHER"

_USUAL_PORTS: Final = {"http": 80, "https": 443}

_QUERIES: Final = QueryTexts(max_length=1024, capacity=256)


def facts_of(attributes: Mapping[str, Any], name: str, scope: str, *, failed: bool) -> CallFacts | None:
    """The call of a span with this name, of an instrumentation with this scope; None if its kind is unknown."""
    failure = str(attributes.get("error.type") or (_FAILED if failed else ""))
    if "rpc.system" in attributes or "rpc.system.name" in attributes:
        return _rpc(attributes, name, failure)
    if "messaging.system" in attributes:
        return _message(attributes, name, failure)
    system = attributes.get("db.system.name") or attributes.get("db.system") or _system_of(scope)
    if system:
        return _command(attributes, name, str(system), failure)
    if "gen_ai.operation.name" in attributes or "gen_ai.system" in attributes:
        return _generation(attributes, name, failure)
    if "http.request.method" in attributes or "http.method" in attributes:
        return _http(attributes, failure)
    return None


def _http(attributes: Mapping[str, Any], failure: str) -> CallFacts:
    url = str(attributes.get("url.full") or attributes.get("http.url") or "")
    parts = _split(url)
    host = str(attributes.get("server.address") or attributes.get("http.host") or parts.hostname or "?")
    status = attributes.get("http.response.status_code") or attributes.get("http.status_code") or 0
    if isinstance(status, int) and status >= 400 and failure in {"", _FAILED}:  # noqa: PLR2004 - an error for a client
        failure = status_label(status)
    method = str(attributes.get("http.request.method") or attributes.get("http.method"))
    return CallFacts(
        cause=Cause.HTTP_CLIENT,
        system="http",
        peer=_peer(host, attributes, parts),
        operation=method if method in HTTP_METHODS else "_OTHER",
        path=_template(parts.path),
        target=url,
        pages=any(key.lower().replace("-", "_") in _PAGES for key in _parameters(parts.query)),
        status=status_label(status or None),
        error=failure,
    )


def _parameters(query: str) -> list[str]:
    """The names of the first parameters."""
    return [pair.partition("=")[0] for pair in query.split("&", _MOST_SEGMENTS)]


def _peer(host: str, attributes: Mapping[str, Any], parts: SplitResult) -> str:
    host = host.rpartition("@")[2][:_LONGEST]
    port = attributes.get("server.port") or attributes.get("net.peer.port") or _port(parts)
    if port and ":" not in host and _USUAL_PORTS.get(parts.scheme) != port:
        return f"{host}:{port}"
    return host


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _template(path: str) -> tuple[str, ...]:
    segments = [segment for segment in path.split("/") if segment]
    return tuple(_segment(each) for each in segments[:_MOST_SEGMENTS])


def _segment(segment: str) -> str:
    return "{}" if _ID.fullmatch(segment) and not _VERSION.fullmatch(segment) else segment


def _command(attributes: Mapping[str, Any], name: str, system: str, failure: str) -> CallFacts:
    text = str(attributes.get("db.query.text") or attributes.get("db.statement") or "")
    operation = str(attributes.get("db.operation.name") or attributes.get("db.operation") or "")
    if system in _SQL:
        query = _QUERIES.describe(text or name, system)
        operation = query.summary or operation or query.operation
    elif not operation:
        operation = (text or name).split(" ", 1)[0]
    pipeline = attributes.get("db.redis.pipeline_length") or attributes.get("db.operation.batch.size")
    cache = system in _CACHES
    return CallFacts(
        cause=Cause.CACHE if cache else Cause.DB,
        system=system,
        peer=_host(attributes) or system,
        operation=("pipeline" if pipeline and cache else operation)[:_LONGEST],
        waits=operation.upper() in _WAITING,
        error=failure,
    )


def _message(attributes: Mapping[str, Any], name: str, failure: str) -> CallFacts:
    system = str(attributes["messaging.system"])
    what = attributes.get("messaging.operation.name") or attributes.get("messaging.operation") or "publish"
    where = attributes.get("messaging.destination.name") or attributes.get("messaging.destination") or name
    return CallFacts(Cause.MESSAGING, system, _host(attributes) or system, f"{what} {where}"[:_LONGEST], error=failure)


def _rpc(attributes: Mapping[str, Any], name: str, failure: str) -> CallFacts:
    system = str(attributes.get("rpc.system.name") or attributes.get("rpc.system"))
    parts = (attributes.get("rpc.service"), attributes.get("rpc.method"))
    operation = "/".join(str(part) for part in parts if part) or name
    return CallFacts(Cause.RPC, system, _host(attributes) or system, operation[:_LONGEST], error=failure)


def _generation(attributes: Mapping[str, Any], name: str, failure: str) -> CallFacts:
    system = str(attributes.get("gen_ai.provider.name") or attributes.get("gen_ai.system") or "gen_ai")
    return CallFacts(Cause.HTTP_CLIENT, system, _host(attributes) or system, name[:_LONGEST], error=failure)


def _host(attributes: Mapping[str, Any]) -> str:
    keys: Iterable[str] = ("server.address", "net.peer.name", "network.peer.address", "net.peer.ip")
    return next((str(attributes[key])[:_LONGEST] for key in keys if attributes.get(key)), "")


def _system_of(scope: str) -> str:
    """The system of an instrumentation that says nothing of it on spans that are not recorded."""
    name = scope.rpartition(".")[2]
    return name if name in _CACHES else ""
