"""What the application keeps at the top of its modules: the names by which people know their caches and containers.

Values are looked at by their exact type only: some objects (proxies, lazy modules) run code when they are asked for an
attribute, and may fail then, or load what nobody needs.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any, Final

from otel_fastperf.internals.frames import is_application

#: types whose `__dict__` is one: that of `functools.lru_cache` is in C
_WRAPPING: Final = (FunctionType, type(lru_cache(int)))


def application_modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and globals of the application's modules that are loaded, the main program included."""
    for name, module in tuple(sys.modules.items()):
        if not issubclass(type(module), ModuleType):
            continue
        namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
        filename = namespace.get("__file__")
        if type(filename) is str and is_application(filename):
            yield name, namespace


def named_values() -> Iterator[tuple[str, Any]]:
    """Every global of the application, and what stands in its classes: `shop.prices.Prices.of_product` and its value.

    Functions and classes are named where they are defined, and not where they are imported.
    """
    for module, namespace in application_modules():
        for name, value in tuple(namespace.items()):
            if name.startswith("__"):
                continue
            yield f"{module}.{name}", value
            if issubclass(type(value), type) and type.__getattribute__(value, "__dict__").get("__module__") == module:
                for attribute, member in tuple(type.__getattribute__(value, "__dict__").items()):
                    if not attribute.startswith("__"):
                        yield f"{module}.{name}.{attribute}", _function(member)


def name_of(value: object) -> str | None:
    """The first name under which the application keeps this very object; None when it stands nowhere at the top."""
    return next((name for name, named in named_values() if named is value), None)


def wrapped(value: Any) -> Iterator[Any]:
    """A function and those that it wraps, outermost first, as `functools.wraps` notes them."""
    seen: set[int] = set()
    while value is not None and id(value) not in seen:
        seen.add(id(value))
        yield value
        value = value.__dict__.get("__wrapped__") if type(value) in _WRAPPING else None


def _function(member: Any) -> Any:
    if type(member) in {staticmethod, classmethod}:
        return member.__func__
    return member.fget if type(member) is property else member
