"""The distro that `opentelemetry-instrument` and the OpenTelemetry operator load where this package is installed.

The agent loads one distro and one configurator, by the entry points of the installed packages, and of several those
that it happens to find first. Ours stand back then, because whoever has another's keeps it, with the SDK that it
configures for processes of any kind. `OTEL_PYTHON_DISTRO=fastperf` and `OTEL_PYTHON_CONFIGURATOR=fastperf` choose ours;
each of them is enough to have apps observed.
"""

import os
from importlib.metadata import EntryPoints, entry_points
from typing import Any, Final

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined] # the module's types are switched off
from opentelemetry.util._importlib_metadata import EntryPoint

from otel_fastperf.zero_code.apps import observe_apps

#: entry points of instrumentations whose place this package takes
_REPLACED: Final = frozenset({"fastapi", "starlette", "asgi", "sqlalchemy"})


#: name of our entry points
_OURS: Final = "fastperf"
_CHOICES: Final = ("OTEL_PYTHON_DISTRO", "OTEL_PYTHON_CONFIGURATOR")


class FastperfDistro(BaseDistro):  # type: ignore[misc]
    """Has apps observed by this package, and loads the other instrumentations as every distro does."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the distro; or None, which the agent passes over on its way to the next one."""
        return None if _others("opentelemetry_distro") else super().__new__(cls, *args, **kwargs)

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002 - the agent's signature
        observe_apps()

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Switch on an instrumentation that this package does not replace."""
        if entry_point.name not in _REPLACED:
            super().load_instrumentor(entry_point, **kwargs)


class FastperfConfigurator:
    """Configures no SDK: each app gets its own pipeline when it is set up."""

    def configure(self, **options: Any) -> None:
        """Have apps observed; or do what another configurator does, which the agent does not load after this one."""
        others = _others("opentelemetry_configurator")
        if others:
            next(iter(others)).load()().configure(**options)
        else:
            observe_apps()


def _others(group: str) -> EntryPoints | tuple[()]:
    """The entry points of other packages that come before ours: none if the environment chooses ours."""
    if any(os.environ.get(variable) == _OURS for variable in _CHOICES):
        return ()
    return EntryPoints(point for point in entry_points(group=group) if point.name != _OURS)
