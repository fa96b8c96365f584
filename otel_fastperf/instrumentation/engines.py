"""The SQLAlchemy engines to observe, as `setup_telemetry(engines=…)` takes them."""

from typing import TYPE_CHECKING, Any, TypeAlias

from otel_fastperf.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    # without greenlet SQLAlchemy's asyncio package cannot be imported
    from sqlalchemy.ext.asyncio import AsyncEngine

#: one engine or several; None for every engine of the process
Engines: TypeAlias = "Engine | AsyncEngine | Sequence[Engine | AsyncEngine] | None"


def checked_engines(engines: Any) -> "list[Engine | AsyncEngine] | None":
    """The engines as a list, or None for every engine of the process.

    Raises:
        SetupError: One of them is not an engine.
    """
    if engines is None:
        return None
    given = list(engines) if isinstance(engines, list | tuple | set | frozenset) else [engines]
    for engine in given:
        # by attributes: AsyncEngine cannot be imported without greenlet
        if not hasattr(engine, "dialect") or not hasattr(engine, "url"):
            message = (
                f"engines= takes SQLAlchemy engines (Engine or AsyncEngine), got {type(engine).__qualname__}."
                " Remedy: pass what create_engine or create_async_engine returned, or omit engines to observe all."
            )
            raise SetupError(message)
    return given
