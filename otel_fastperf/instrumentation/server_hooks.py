"""Functions of the application that see the SERVER span when it starts and before it ends.

Their names are those of OpenTelemetry's instrumentations.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.trace import Span
from starlette.types import Message, Scope

from otel_fastperf.errors import SetupError

#: Called with the SERVER span and the ASGI scope when a request or a websocket connection begins.
ServerRequestHook: TypeAlias = Callable[[Span, Scope], object]
#: Called before the SERVER span ends, with the scope that was routed and the first message of the answer, such as
#: `http.response.start`, which has status and headers. Without an answer, that is empty.
ServerResponseHook: TypeAlias = Callable[[Span, Scope, Message], object]


class ServerHooks(NamedTuple):
    """The hooks of one app; None for none."""

    request: ServerRequestHook | None = None
    response: ServerResponseHook | None = None


def checked_hooks(request: Any, response: Any) -> ServerHooks:
    """The hooks that `setup_telemetry` was given.

    Raises:
        SetupError: One is no function, or one that must be awaited.
    """
    for name, hook in (("server_request_hook", request), ("server_response_hook", response)):
        if hook is None:
            continue
        called = hook if inspect.isroutine(hook) else getattr(hook, "__call__", None)  # noqa: B004 - to look at it
        if called is None or inspect.iscoroutinefunction(called):
            what = "an async function" if called is not None else repr(hook)
            signature = "(span, scope)" if hook is request else "(span, scope, message)"
            message = (
                f"{name}= takes a function, called as {name}{signature}, got {what}. Remedy: pass a `def` function."
            )
            raise SetupError(message)
    return ServerHooks(request, response)
