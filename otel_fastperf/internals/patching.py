"""Patches of other packages' functions, and hooks into them: one of each in a process, shared by all apps.

Each app subscribes, so a second app adds no second wrapper, and apps may be shut down in any order.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar

_S = TypeVar("_S")

#: attribute of the patched module, class or object that holds its patches by function name
_PATCHES: Final = "_otel_fastperf_patches"
#: the garbage collector may end the subscriptions of an app that is gone while this thread holds the lock
_LOCK: Final = threading.RLock()
_NO_SUBSCRIBERS: Final[Mapping[int, Any]] = MappingProxyType({})


class Hook(Protocol[_S]):
    """What a process has once as long as somebody subscribes to it. `subscribers` is as that of `Patch`."""

    subscribers: Mapping[int, _S]

    def apply(self) -> None:
        """Put it in place, unless it is there already. Called for each subscriber that comes."""

    def remove(self) -> bool:
        """Take it away. False if it must stay for the next subscriber."""


class Patch(Generic[_S]):
    """A wrapper in place of `target.name`, and its subscribers.

    Attributes:
        subscribers: The subscribers by the `id()` of their owners, oldest first. Replaced as a whole, never changed,
            so that a call may iterate over it while an app is set up or shut down.
    """

    __slots__ = ("_inherited", "_name", "_original", "_target", "subscribers", "wrapper")

    def __init__(self, target: Any, name: str, wrap: "Callable[[Any, Patch[_S]], Any]") -> None:
        self._target = target
        self._name = name
        self._inherited = name not in vars(target)
        self._original = getattr(target, name)
        self.subscribers: Mapping[int, _S] = _NO_SUBSCRIBERS
        self.wrapper: Any = wrap(self._original, self)
        _rename(self.wrapper, name)

    def apply(self) -> None:
        """Put the wrapper in place, unless it is there already, alone or under another package's wrapper."""
        # `==`, not `is`: every access to a method makes a new bound method
        if getattr(self._target, self._name) == self._original:
            setattr(self._target, self._name, self.wrapper)

    def remove(self) -> bool:
        """Restore the original. False if another package has wrapped ours, which then stays and passes calls on."""
        if vars(self._target).get(self._name) is not self.wrapper:
            return bool(getattr(self._target, self._name) == self._original)
        if self._inherited:
            delattr(self._target, self._name)
        else:
            setattr(self._target, self._name, self._original)
        return True


def _rename(wrapper: Any, name: str) -> None:
    """Call the frames of a wrapper as those of what it wraps: a log record may be told to name its caller's caller."""
    if isinstance(wrapper, FunctionType):
        wrapper.__code__ = wrapper.__code__.replace(co_name=name, co_qualname=name)


@contextmanager
def subscribed(
    target: Any, name: str, wrap: Callable[[Any, Patch[_S]], Any], owner: object, subscriber: _S
) -> Iterator[None]:
    """Wrap `target.name`, and keep `subscriber` among the wrapper's subscribers until the context manager exits.

    Args:
        target: A module, a class, or an object with a `__dict__`.
        name: Name of its function.
        wrap: `wrap(original, patch)` returns the wrapper, which must read `patch.subscribers` at each call. Called only
            for the first subscriber.
        owner: Key of the subscriber; must stay alive until the context manager exits.
        subscriber: What the wrapper needs to know of this owner.
    """
    with hooked(target, name, lambda: Patch(target, name, wrap), owner, subscriber):
        yield


@contextmanager
def hooked(target: Any, name: str, make: Callable[[], Hook[_S]], owner: object, subscriber: _S) -> Iterator[None]:
    """Keep `subscriber` among those of the hook `name` of `target`, until the context manager exits.

    `make()` makes the hook, for the first subscriber only. For the others see `subscribed`.
    """
    with _LOCK:
        hooks = vars(target).get(_PATCHES)
        if hooks is None:
            hooks = {}
            setattr(target, _PATCHES, hooks)
        hook: Hook[_S] = hooks.get(name) or make()
        hooks[name] = hook
        hook.subscribers = MappingProxyType({**hook.subscribers, id(owner): subscriber})
        hook.apply()
    try:
        yield
    finally:
        with _LOCK:
            rest = {key: value for key, value in hook.subscribers.items() if key != id(owner)}
            hook.subscribers = MappingProxyType(rest)
            if not rest and hook.remove():
                hooks.pop(name, None)


def subscribers_of(target: Any, name: str) -> tuple[Any, ...]:
    """The subscribers to a function of `target`, or to a hook, oldest first."""
    hook = vars(target).get(_PATCHES, {}).get(name)
    return () if hook is None else tuple(hook.subscribers.values())
