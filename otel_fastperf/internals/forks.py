"""Hooks around `os.fork` that do not keep alive what they belong to: Python has no way to unregister them."""

import os
import weakref
from collections.abc import Callable


def _nothing() -> None:
    pass


def on_fork(
    *,
    after_in_child: Callable[[], None],
    before: Callable[[], None] = _nothing,
    after_in_parent: Callable[[], None] = _nothing,
) -> None:
    """Call these methods around each fork of this process, for as long as their object lives."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_weakly(before), after_in_parent=_weakly(after_in_parent), after_in_child=_weakly(after_in_child)
        )


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    if not hasattr(method, "__self__"):
        return method
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call
