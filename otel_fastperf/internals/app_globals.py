"""The application's module globals, under the names that its developers know.

Values are inspected only by their exact type: accessing an attribute of a proxy or a lazy module runs code, which may
fail or trigger imports.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any, Final

from otel_fastperf.internals.frames import is_application

#: types whose `__dict__` can be read without running code of the app
_WRAPPING: Final = (FunctionType, type(lru_cache(int)))


def application_modules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and globals of the application's loaded modules, including the main program."""
    for name, module in tuple(sys.modules.items()):
        if not issubclass(type(module), ModuleType):
            continue
        namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
        filename = namespace.get("__file__")
        if type(filename) is str and is_application(filename):
            yield name, namespace


def named_values() -> Iterator[tuple[str, Any]]:
    """Yield the application's globals and the attributes of its classes, with names like `shop.prices.Prices.of`.

    Members of a class are yielded only for the module that defines the class.
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
    """Return the first name of this object among the application's globals; None if it is not one."""
    return next((name for name, named in named_values() if named is value), None)


def wrapped(value: Any) -> Iterator[Any]:
    """Yield a function and the functions that it wraps by `functools.wraps`, outermost first."""
    seen: set[int] = set()
    while value is not None and id(value) not in seen:
        seen.add(id(value))
        yield value
        value = value.__dict__.get("__wrapped__") if type(value) in _WRAPPING else None


def _function(member: Any) -> Any:
    if type(member) in {staticmethod, classmethod}:
        return member.__func__
    return member.fget if type(member) is property else member
