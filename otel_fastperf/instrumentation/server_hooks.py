"""Functions of the application: they see the SERVER span when it starts and before it ends, and label its metric.

The names of the hooks are those of OpenTelemetry's instrumentations.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from opentelemetry.trace import Span
from starlette.types import Message, Scope

from otel_fastperf.errors import SetupError

#: Called with the SERVER span and the ASGI scope when a request or a websocket connection begins.
ServerRequestHook: TypeAlias = Callable[[Span, Scope], object]
#: Called before the SERVER span ends, with the scope that was routed and the first message of the answer, such as
#: `http.response.start`, which has status and headers. Without an answer, that is empty.
ServerResponseHook: TypeAlias = Callable[[Span, Scope, Message], object]

#: Called with the scope that was routed when a request has ended; returns the value of a label.
RequestLabel: TypeAlias = Callable[[Scope], str | None]

#: most labels that an application may add
_MOST_LABELS: Final = 8
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]*")
#: labels of the metric itself, and those that Prometheus and this package's page add
_TAKEN: Final = frozenset(
    {
        *("http_request_method", "http_route", "http_response_status_code", "error_type", "url_scheme"),
        *("le", "quantile", "job", "instance", "worker"),
    }
)


class ServerHooks(NamedTuple):
    """The functions of one app: its hooks, None for none, and its labels."""

    request: ServerRequestHook | None = None
    response: ServerResponseHook | None = None
    labels: Mapping[str, RequestLabel] = MappingProxyType({})

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.request is not None or self.response is not None or bool(self.labels)


def checked_hooks(request: Any, response: Any, labels: Any) -> ServerHooks:
    """The functions that `setup_telemetry` was given.

    Raises:
        SetupError: One is no function, or one that must be awaited; or a label cannot have its name.
    """
    _check_functions({"server_request_hook": request, "server_response_hook": response})
    return ServerHooks(request, response, _checked_labels({} if labels is None else labels))


def _check_functions(hooks: Mapping[str, Any]) -> None:
    for name, hook in hooks.items():
        if hook is not None and not _is_plain_function(hook):
            arguments = "span, scope" if name == "server_request_hook" else "span, scope, message"
            message = (
                f"{name}= takes a function, called as {name}({arguments}), got {_told(hook)}."
                " Remedy: pass a `def` function."
            )
            raise SetupError(message)


def _checked_labels(labels: Any) -> Mapping[str, RequestLabel]:
    if not isinstance(labels, Mapping) or len(labels) > _MOST_LABELS:
        got = f"{len(labels)} labels" if isinstance(labels, Mapping) else repr(labels)
        message = (
            f"request_labels= takes a dict of at most {_MOST_LABELS} labels, got {got}."
            ' Remedy: pass {"tenant": function}, where function(scope) returns the value of the label tenant.'
        )
        raise SetupError(message)
    for name, value_of in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name in _TAKEN:
            message = (
                f"request_labels[{name!r}]: must be a name of lower-case letters, digits and underscores that is no"
                " label of the metric, nor one that Prometheus adds. Remedy: choose a name such as tenant."
            )
            raise SetupError(message)
        if not _is_plain_function(value_of):
            message = (
                f"request_labels[{name!r}] takes a function, called as function(scope), got {_told(value_of)}."
                " Remedy: pass a `def` function that returns the value of the label."
            )
            raise SetupError(message)
    return MappingProxyType(dict(labels))


def _is_plain_function(candidate: Any) -> bool:
    called = candidate if inspect.isroutine(candidate) else getattr(candidate, "__call__", None)  # noqa: B004
    return called is not None and not inspect.iscoroutinefunction(called)


def _told(candidate: Any) -> str:
    return "an async function" if callable(candidate) else repr(candidate)
