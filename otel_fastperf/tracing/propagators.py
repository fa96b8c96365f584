"""The global propagators: the headers that carry a trace from service to service."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator

from otel_fastperf.settings import propagators_of_environment

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import TextMapPropagator


class _Override:
    """Our replacements of the global propagator, newest last, and the propagator they replaced.

    Apps that overlap may end in any order, so an end must not simply restore what it found at its start.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replaced: TextMapPropagator | None = None
        self._active: list[CompositePropagator] = []

    def add(self, propagator: CompositePropagator) -> None:
        with self._lock:
            if not self._active:
                self._replaced = propagate.get_global_textmap()
            self._active.append(propagator)
            propagate.set_global_textmap(propagator)

    def remove(self, propagator: CompositePropagator) -> None:
        with self._lock:
            self._active = [each for each in self._active if each is not propagator]
            # a propagator that the app has set since then stays
            if propagate.get_global_textmap() is propagator and self._replaced is not None:
                propagate.set_global_textmap(self._active[-1] if self._active else self._replaced)


_OVERRIDE: Final = _Override()


@contextmanager
def propagators_set(names: Sequence[str]) -> Iterator[None]:
    """Make these propagators the global ones until the end of the block.

    The OpenTelemetry API applies `OTEL_PROPAGATORS` on its own; only names given as an argument replace anything.
    """
    if tuple(names) == propagators_of_environment():
        yield
        return
    points = [point for name in names for point in entry_points(group="opentelemetry_propagator", name=name)]
    propagator = CompositePropagator([point.load()() for point in points])
    _OVERRIDE.add(propagator)
    try:
        yield
    finally:
        _OVERRIDE.remove(propagator)
