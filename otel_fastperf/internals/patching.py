"""Patches of other packages' functions: one wrapper for each function, shared by all apps of the process.

Each app subscribes to the wrapper. A second app adds no second wrapper, so a call costs the same however many apps
there are, and apps may be shut down in any order.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

_S = TypeVar("_S")

#: attribute of the patched module, class or object that holds its patches by function name
_PATCHES: Final = "_otel_fastperf_patches"
_LOCK: Final = threading.Lock()
_NO_SUBSCRIBERS: Final[Mapping[int, Any]] = MappingProxyType({})


class Patch(Generic[_S]):
    """A wrapper in place of `target.name`, and its subscribers.

    Attributes:
        subscribers: What each subscriber gave, by the `id()` of its owner, oldest first. Replaced as a whole, never
            changed, so that a call may iterate over it while an app comes or goes.
    """

    __slots__ = ("_inherited", "_name", "_original", "_target", "subscribers", "wrapper")

    def __init__(self, target: Any, name: str, wrap: "Callable[[Any, Patch[_S]], Any]") -> None:
        self._target = target
        self._name = name
        self._inherited = name not in vars(target)
        self._original = getattr(target, name)
        self.subscribers: Mapping[int, _S] = _NO_SUBSCRIBERS
        self.wrapper = wrap(self._original, self)

    def apply(self) -> None:
        """Put the wrapper in place, unless it is in the chain already: alone, or below another package's wrapper."""
        # `==`, not `is`: every access to a method makes a new bound method
        if getattr(self._target, self._name) == self._original:
            setattr(self._target, self._name, self.wrapper)

    def remove(self) -> bool:
        """Put the original back. False if another package wrapped ours since: then ours stays and passes calls on."""
        if vars(self._target).get(self._name) is not self.wrapper:
            return bool(getattr(self._target, self._name) == self._original)
        if self._inherited:
            delattr(self._target, self._name)
        else:
            setattr(self._target, self._name, self._original)
        return True


@contextmanager
def subscribed(
    target: Any, name: str, wrap: Callable[[Any, Patch[_S]], Any], owner: object, subscriber: _S
) -> Iterator[None]:
    """Have `subscriber` in the subscribers of the wrapper around `target.name` until the end of the block.

    Args:
        target: A module, a class, or an object with a `__dict__`.
        name: Its function.
        wrap: `wrap(original, patch)` returns the wrapper. Called for the first subscriber only; the wrapper reads
            `patch.subscribers` at each call.
        owner: The key of the subscriber; alive until the end of the block.
        subscriber: What the wrapper needs of this owner.
    """
    with _LOCK:
        patches = vars(target).get(_PATCHES)
        if patches is None:
            patches = {}
            setattr(target, _PATCHES, patches)
        patch: Patch[_S] = patches.get(name) or Patch(target, name, wrap)
        patches[name] = patch
        patch.subscribers = MappingProxyType({**patch.subscribers, id(owner): subscriber})
        patch.apply()
    try:
        yield
    finally:
        with _LOCK:
            rest = {key: value for key, value in patch.subscribers.items() if key != id(owner)}
            patch.subscribers = MappingProxyType(rest)
            if not rest and patch.remove():
                patches.pop(name, None)
