"""Hooks around `os.fork` that end with the object that they belong to.

Python has no way to unregister a hook, so one set is registered for the process, and calls those of the living objects.
"""

import os
from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

_Hook: TypeAlias = Callable[[], None]


class _ForkHooks(NamedTuple):
    """The functions of an object's methods, which do not keep the object alive."""

    before: Callable[..., None] | None
    after_in_parent: Callable[..., None] | None
    after_in_child: Callable[..., None] | None


_OF_LIVING: Final[WeakKeyDictionary[object, _ForkHooks]] = WeakKeyDictionary()


def on_fork(*, after_in_child: _Hook, before: _Hook | None = None, after_in_parent: _Hook | None = None) -> None:
    """Call these methods of one object around each fork of this process, for as long as the object lives."""
    if hasattr(os, "register_at_fork"):
        _register()
        assert isinstance(after_in_child, MethodType)  # noqa: S101 - what is no method has no object
        functions = (getattr(method, "__func__", None) for method in (before, after_in_parent, after_in_child))
        _OF_LIVING[after_in_child.__self__] = _ForkHooks(*functions)


@cache
def _register() -> None:
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def _before() -> None:
    # the newest first, as `os.register_at_fork` does it
    for living, hooks in reversed(list(_OF_LIVING.items())):
        if hooks.before is not None:
            hooks.before(living)


def _after_in_parent() -> None:
    for living, hooks in list(_OF_LIVING.items()):
        if hooks.after_in_parent is not None:
            hooks.after_in_parent(living)


def _after_in_child() -> None:
    for living, hooks in list(_OF_LIVING.items()):
        if hooks.after_in_child is not None:
            hooks.after_in_child(living)
