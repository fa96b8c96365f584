"""Listeners for the events of all engines of the process: one of each, shared by all apps."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from sqlalchemy import Engine, event

_S = TypeVar("_S")


class EngineEvents(Generic[_S]):
    """A `Hook` into SQLAlchemy: what happens is passed to the subscribers.

    The listeners stay when nobody subscribes any more, and do nothing: SQLAlchemy does not lock its lists of listeners,
    so a statement that runs in another thread while one is removed would fail.
    """

    def __init__(self, *events: tuple[str, Callable[..., object]]) -> None:
        """`events`: names, and the listeners."""
        self.subscribers: Mapping[int, _S] = {}
        self._events = events

    def apply(self) -> None:
        """Listen."""
        for name, listener in self._events:
            if not event.contains(Engine, name, listener):
                event.listen(Engine, name, listener)

    def remove(self) -> bool:
        """Stay."""
        return False
