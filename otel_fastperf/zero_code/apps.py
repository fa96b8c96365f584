"""Sets up each app when it is called first. What the app set up itself by then stays as it is."""

import logging
from functools import cache
from types import ModuleType
from typing import Any, Final
from weakref import WeakSet

from wrapt import when_imported

_MODULE: Final = "starlette.applications"

_logger: Final = logging.getLogger("otel_fastperf")


@cache  # distro and configurator call it
def observe_apps() -> None:
    """Set up each Starlette or FastAPI app of this process when it is called first. Imports neither of them.

    A server calls an app first for its lifespan, or else for a request. An app that is mounted in another belongs to
    that one. If set-up fails, the log says why, and the app runs unobserved.
    """
    when_imported(_MODULE)(_observe)


def _observe(module: ModuleType) -> None:
    application: Any = module.Starlette
    original = application.__call__
    seen: WeakSet[Any] = WeakSet()

    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807 - replaces that method
        if self not in seen and "app" not in scope:
            seen.add(self)
            _set_up(self)
        await original(self, scope, receive, send)

    application.__call__ = __call__


def _set_up(app: Any) -> None:
    try:
        # imports FastAPI, SQLAlchemy and the SDK: not at the start of a process that may need none of them
        from otel_fastperf.telemetry import set_up_automatically

        set_up_automatically(app)
    except Exception as error:  # noqa: BLE001 - nobody asked for telemetry in the code: the app runs without
        _logger.error("otel_fastperf: the app is not observed: %s", error)  # noqa: TRY400 - it says all
