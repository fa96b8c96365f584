"""Collections (dicts, lists, sets, deques) of the application's modules: their sizes, and the line that adds to them.

A leak is usually a dict or list held by a module, by a class, or by an object that a module holds. Counting entries
takes a millisecond, unlike allocation tracing. Collections nested deeper are not seen.
"""

import ast
import inspect
import linecache
import sys
import textwrap
import tokenize
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from itertools import islice
from types import CodeType, FunctionType
from typing import Any, Final

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.app_globals import application_modules, named_values, wrapped

#: exact types, because `len()` of a subclass may run code of the app
_COLLECTIONS: Final = frozenset({dict, list, set, deque, OrderedDict, defaultdict})
#: minimum number of entries for a collection to be counted, and most collections that are counted
_FEW: Final = 10
_MOST: Final = 5_000
#: number of entries that are measured, newest first if the collection is ordered
_MEASURED: Final = 20
#: methods that add to a collection
_ADDING: Final = frozenset({"add", "append", "appendleft", "extend", "insert", "setdefault", "update"})
#: most lines of a function that are parsed to find the one that adds
_LONGEST_FUNCTION: Final = 500


def sizes() -> dict[str, int]:
    """Count the entries of every collection that has a few, by name."""
    return {name: len(value) for name, value in islice(_collections(), _MOST) if len(value) >= _FEW}


def collection(name: str) -> Any:
    """Return the collection of that name; None if it is gone."""
    return next((value for known, value in _collections() if known == name), None)


def bytes_of_entry(value: Any) -> float:
    """Estimate the bytes per entry from the latest entries and the objects they refer to directly."""
    try:
        entries: Any = value.values() if isinstance(value, Mapping) else value
        newest = list(islice(reversed(entries), _MEASURED))
    except (TypeError, RuntimeError):  # a set has no order; a deque may change during iteration
        newest = list(islice(tuple(value) if len(value) < _MOST else value, _MEASURED))
    return sum(map(_size, newest)) / len(newest) if newest else 0.0


def _size(entry: Any) -> int:
    return sys.getsizeof(entry) + sum(sys.getsizeof(part) for part in islice(_parts(entry), _MEASURED))


def _parts(entry: Any) -> Iterator[Any]:
    if type(entry) in {list, tuple, set, deque}:
        yield from entry
    elif type(entry) is dict:
        yield from entry.values()
    else:
        yield from _attributes(entry).values()


def _collections() -> Iterator[tuple[str, Any]]:
    modules = {name for name, _ in application_modules()}
    seen: set[int] = set()
    for name, value in named_values():
        for known, held in ((name, value), *_held(name, value, modules)):
            if type(held) in _COLLECTIONS and id(held) not in seen:
                seen.add(id(held))
                yield known, held


def _held(name: str, value: Any, modules: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object of the application's own classes, or the state of its app."""
    kind = type(value)
    if issubclass(kind, type):
        return
    if type.__getattribute__(kind, "__dict__").get("__module__") in modules:
        attributes = _attributes(value)
    elif kind.__name__ in {"FastAPI", "Starlette"}:
        name, attributes = f"{name}.state", _attributes(_attributes(value).get("state")).get("_state", {})
    else:
        return
    for attribute, held in tuple(attributes.items()):
        yield f"{name}.{attribute}", held


def _attributes(value: Any) -> dict[str, Any]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return attributes if type(attributes) is dict else {}


def adding_line(name: str, value: Any) -> CallSite | None:
    """Return the line of the application that adds to a collection; None unless there is exactly one.

    Searches the functions that mention the collection for `pages[key] = …`, `pages.append(…)`, `self.pages[key] = …`.
    """
    found = {
        CallSite(function.__code__.co_filename, line, function.__code__.co_qualname)
        for function in _functions()
        if (spelled := _spelled(function, name, value)) is not None
        for line in _additions(function, spelled)
    }
    return found.pop() if len(found) == 1 else None


def _functions() -> Iterator[FunctionType]:
    seen: set[int] = set()
    for _, value in named_values():
        for function in wrapped(value):
            if type(function) is FunctionType and id(function) not in seen:
                seen.add(id(function))
                yield function


def _spelled(function: FunctionType, name: str, value: Any) -> str | None:
    """Return the name under which a function uses the collection; None if it does not."""
    names = _names(function.__code__)
    for word in names:
        if function.__globals__.get(word) is value:
            return word
    last = name.rpartition(".")[2]
    return last if last in names and function.__globals__.get(last, value) is value else None


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _additions(function: FunctionType, word: str) -> Iterator[int]:
    """Yield the lines of a function that add to the collection it calls `word`."""
    first = function.__code__.co_firstlineno
    # not `inspect.getsource`, which searches every loaded module
    lines = linecache.getlines(function.__code__.co_filename)[first - 1 :][:_LONGEST_FUNCTION]
    try:
        tree = ast.parse(textwrap.dedent("".join(inspect.getblock(lines))))
    except (SyntaxError, ValueError, tokenize.TokenError):  # too long, or the file has changed
        return
    for node in ast.walk(tree):
        if any(_is(target, word) for target in _added_to(node)):
            yield first + node.lineno - 1  # type: ignore[attr-defined]


def _added_to(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions to which a statement or a call adds."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.value for target in targets if isinstance(target, ast.Subscript))
        if isinstance(node, ast.AugAssign):
            yield node.target
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDING:
        yield node.func.value


def _is(expression: ast.expr, word: str) -> bool:
    if isinstance(expression, ast.Name):
        return expression.id == word
    return isinstance(expression, ast.Attribute) and expression.attr == word
