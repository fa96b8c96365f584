"""A route is a method and a template. This finds the template of an ASGI scope, also for nested routers and mounts.

The template is read after the router has run, from what it left in the scope. FastAPI >= 0.137 matches an included
router as one object whose route knows only its own part of the path; the full template is in the scope's *effective
route context*. Mounts add the path that they consumed to `root_path`, which equals the template unless the mount has
parameters. Only in that case, and for plain Starlette routes, which leave no trace in the scope, are the routes matched
again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from starlette.routing import Host, Mount, WebSocketRoute
from starlette.types import Scope

try:
    from fastapi.routing import iter_route_contexts as _flat
except ImportError:  # FastAPI < 0.137.2 lacks this function, and < 0.137 does not need it

    def _flat(routes: Sequence[Any]) -> Iterator[Any]:  # type: ignore[misc]
        for route in routes:
            yield from route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else (route,)


_NOTHING: Final[Mapping[str, Any]] = {}

#: template of a request that no route served; semconv omits `http.route`, but a named value is easier to query
UNMATCHED: Final = "unmatched"
#: method of a WebSocket connection, whose handshake is a GET
WEBSOCKET: Final = "WS"


class Route(NamedTuple):
    """What requests have in common: the key of all that is kept per route, and the values of its two labels.

    Attributes:
        method: `http_request_method`: a known method, `_OTHER`, or `WS`; "" outside of requests.
        template: `http_route`: `/items/{item_id}` or `unmatched`; "" as long as the router has not found it.
    """

    method: str
    template: str

    def __str__(self) -> str:
        """`GET /items/{item_id}`."""
        return " ".join(filter(None, self))


#: code that runs for no request
NO_ROUTE: Final = Route("", "")


def route_template(scope: Scope, root_path: str) -> str | None:
    """The template of the route that served this scope; None if no route did (404, 405, redirects, middleware).

    `root_path` is the scope's value when the app's router got it, before mounts added to it.
    """
    frontend = (scope.get("fastapi") or _NOTHING).get("frontend_path")
    if isinstance(frontend, str):
        return _frontend_template(scope, root_path, frontend)
    if "endpoint" not in scope and "route" not in scope:
        return None
    leaf = _leaf(scope)
    if leaf is None or isinstance(leaf, Mount | Host) or not _all_parameters_are_its_own(scope, leaf):
        return _match(_routes(scope), _relative_path(scope["path"], root_path), scope)
    if not _serves(leaf, scope):
        return None
    prefix: str = scope.get("root_path", "")
    if not prefix.startswith(root_path):
        return _match(_routes(scope), _relative_path(scope["path"], root_path), scope)
    return prefix[len(root_path) :] + str(leaf.path)


def _frontend_template(scope: Scope, root_path: str, file: str) -> str | None:
    """The template of `app.frontend(…)`, which leaves in the scope only the path of the `file` that it serves."""
    if scope.get("method") not in {"GET", "HEAD"}:
        return None
    inner_root: str = scope.get("root_path", "")
    own = _relative_path(scope["path"], inner_root).removesuffix(file).rstrip("/")
    mounts = _mounts_template(_routes(scope), inner_root.removeprefix(root_path))
    return None if mounts is None else mounts + own + "/{path}"


def _mounts_template(routes: Sequence[Any], consumed: str) -> str | None:
    """The template of the mounts that have consumed this part of the path; None if no mount is known to do so."""
    if not consumed:
        return ""
    for each in _flat(routes):
        route = getattr(each, "starlette_route", None) or each
        inner: Sequence[Any] = getattr(route, "routes", None) or ()
        found = route.path_regex.match(consumed + "/") if inner and getattr(route, "path_regex", None) else None
        if found is None:
            continue
        # its last group is the path that it leaves to others, here with the slash at the end
        rest = _mounts_template(inner, f"/{found.group('path')}".removesuffix("/"))
        if rest is not None:
            return str(route.path_format).removesuffix("/{path}") + rest
    return None


def has_literal_route(routes: Sequence[Any], path: str) -> bool:
    """True if one of the routes or included routers serves exactly this path. A catch-all route does not count."""
    return any(getattr(route, "path", None) == path for route in _flat(routes))


def endpoints(routes: Sequence[Any]) -> Iterator[Any]:
    """The functions that serve the routes, including those of routers and mounted apps, without FastAPI's own pages."""
    for each in _flat(routes):
        route = getattr(each, "starlette_route", None) or each
        inner: Sequence[Any] | None = getattr(route, "routes", None)
        endpoint = getattr(each, "endpoint", None)
        if inner is not None:
            yield from endpoints(inner)
        elif endpoint is not None and not str(endpoint.__module__).startswith(("fastapi.", "starlette.")):
            yield endpoint


def _leaf(scope: Scope) -> Any:
    route = scope.get("route")
    context = (scope.get("fastapi") or _NOTHING).get("effective_route_context")
    # a sub-app in an included router leaves the outer router's context in the scope, which does not fit the route then
    if context is not None and (context.original_route is route or route is None):
        return context.starlette_route or context
    return route if hasattr(route, "param_convertors") else None


def _all_parameters_are_its_own(scope: Scope, leaf: Any) -> bool:
    names: frozenset[str] = frozenset(leaf.param_convertors)
    return names.issuperset(scope.get("path_params", ()))


def _serves(leaf: Any, scope: Scope) -> bool:
    methods = getattr(leaf, "methods", None)
    return scope["type"] == "websocket" or not methods or scope["method"] in methods


def _routes(scope: Scope) -> Sequence[Any]:
    router = scope.get("router")
    return getattr(router, "routes", ())


def _relative_path(path: str, root_path: str) -> str:
    if root_path and (path == root_path or path.startswith(root_path + "/")):
        return path[len(root_path) :]
    return path


def _match(routes: Sequence[Any], path: str, scope: Scope) -> str | None:
    for each in _flat(routes):
        # FastAPI < 0.143 represents a mount of an included router by a context with the mount in this attribute
        route = getattr(each, "starlette_route", None) or each
        inner: Sequence[Any] | None = getattr(route, "routes", None)
        if getattr(route, "host_regex", None) is not None:
            if _host_matches(route, scope):
                # an app without routes serves all paths of a host, as static files do
                return _match(inner, path, scope) if inner else "/{path}"
            continue
        found = route.path_regex.match(path) if getattr(route, "path_regex", None) else None
        if found is None:
            continue
        if inner is None:
            if _kind_fits(route, scope) and _serves(route, scope):
                return str(route.path)
            continue
        prefix = str(route.path_format).removesuffix("/{path}")
        if not inner:
            # a mount without routes, such as static files or a WSGI app
            return prefix + "/{path}"
        rest = _match(inner, "/" + found.group("path"), scope)
        return None if rest is None else prefix + rest
    return None


def _kind_fits(route: Any, scope: Scope) -> bool:
    original = getattr(route, "original_route", route)
    return isinstance(original, WebSocketRoute) is (scope["type"] == "websocket")


def _host_matches(route: Any, scope: Scope) -> bool:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return bool(route.host_regex.match(host.split(":")[0]))
