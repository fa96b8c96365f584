"""The distro that `opentelemetry-instrument` and the OpenTelemetry operator load where this package is installed.

The agent loads one distro and one configurator, by the entry points of the installed packages. Where there are several,
`OTEL_PYTHON_DISTRO=fastperf` and `OTEL_PYTHON_CONFIGURATOR=fastperf` choose these; each of them is enough to have apps
observed.
"""

from typing import Any, Final

from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined] # the module's types are switched off
from opentelemetry.util._importlib_metadata import EntryPoint

from otel_fastperf.zero_code.apps import observe_apps

#: entry points of instrumentations whose place this package takes
_REPLACED: Final = frozenset({"fastapi", "starlette", "asgi", "sqlalchemy"})


class FastperfDistro(BaseDistro):  # type: ignore[misc]
    """Has apps observed by this package, and loads the other instrumentations as every distro does."""

    def _configure(self, **kwargs: Any) -> None:  # noqa: ARG002 - the agent's signature
        observe_apps()

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Switch on an instrumentation that this package does not replace."""
        if entry_point.name not in _REPLACED:
            super().load_instrumentor(entry_point, **kwargs)


class FastperfConfigurator:
    """Configures no SDK: each app gets its own pipeline when it is set up."""

    def configure(self, **_options: Any) -> None:
        """Have apps observed."""
        observe_apps()
