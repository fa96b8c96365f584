"""What the source of a function says of two of its lines: is one repeated by a loop, does one need the other's result.

The source is read when a finding is made, not while a request runs. Where it is missing or unreadable, nothing is said.
"""

import ast
import linecache
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from otel_fastperf.findings import CallSite

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_EXITS: Final = (ast.Return, ast.Raise, ast.Break, ast.Continue)
#: files whose source is remembered, and the longest that is read, in lines
_MOST_FILES: Final = 16
_LONGEST: Final = 20_000
#: answers that are remembered, of each kind
_MOST_ANSWERS: Final = 1024


@lru_cache(_MOST_ANSWERS)
def is_in_loop(site: CallSite) -> bool:
    """Whether the line is in a loop or comprehension of its function."""
    function = _function_at(site)
    if function is None:
        return False
    return any(
        _is_repeated(node, site.line)
        for node in _own_nodes(function)
        if isinstance(node, (*_LOOPS, *_COMPREHENSIONS)) and _covers(node, site.line)
    )


@lru_cache(_MOST_ANSWERS)
def are_independent(earlier: CallSite, later: CallSite) -> bool:
    """Whether the later line of a function needs neither the result of the earlier one nor its success.

    False where that cannot be seen. What a line does to the outside is not visible in the source.
    """
    function = _function_at(earlier)
    if function is None or earlier.line >= later.line or function is not _function_at(later):
        return False
    steps = tuple(_steps(function.body, ()))
    first, last = _index_of(steps, earlier.line), _index_of(steps, later.line)
    if first is None or last is None:
        return False
    if first == last:
        # the items of a list or dict, or the arguments of a function
        return len({_outermost_call(function, line) for line in (earlier.line, later.line)} - {None}) > 1
    return first < last and not _needs(steps, first, last)


@lru_cache(_MOST_ANSWERS)
def calls_at(site: CallSite) -> int:
    """How many calls, or awaits in a coroutine, the line has that are not inside of each other; 0 if unknown."""
    function = _function_at(site)
    if function is None:
        return 0
    kind = ast.Await if isinstance(function, ast.AsyncFunctionDef) else ast.Call
    there = [node for node in _own_nodes(function) if isinstance(node, kind) and node.lineno == site.line]
    inner = {id(each) for node in there for each in ast.walk(node) if each is not node}
    return sum(1 for node in there if id(node) not in inner)


def _outermost_call(function: _Function, line: int) -> tuple[int, int] | None:
    """Where the outermost await of a coroutine's line begins, or the outermost call of a function's."""
    kind = ast.Await if isinstance(function, ast.AsyncFunctionDef) else ast.Call
    there = [node for node in _own_nodes(function) if isinstance(node, kind) and _covers(node, line)]
    outermost = max(there, key=lambda node: ((node.end_lineno or 0) - node.lineno, -node.col_offset), default=None)
    return None if outermost is None else (outermost.lineno, outermost.col_offset)


class _SourceStep(NamedTuple):
    """A simple statement, or the head of a compound one.

    Attributes:
        reads: Names that it uses.
        binds: Names that it sets, or whose objects it may change.
        guards: Names that decide whether it runs.
        leaves: Whether it leaves the function or the loop.
        commands: Whether it is a call whose result nobody takes, so that it is made for what it does.
    """

    first: int
    last: int
    reads: frozenset[str]
    binds: frozenset[str]
    guards: frozenset[str]
    leaves: bool
    commands: bool


def _needs(steps: Sequence[_SourceStep], first: int, last: int) -> bool:
    """Whether the last step depends on the first."""
    if steps[first].commands or steps[last].commands:
        return True  # what they do may need an order
    tainted = set(steps[first].binds)
    for number in range(first + 1, last + 1):
        step = steps[number]
        depends = bool(step.reads & tainted)
        decided = bool(step.guards & tainted)
        if decided and (step.leaves or number == last):
            return True
        if number == last:
            return depends
        if depends or decided:
            tainted |= step.binds
    return True


def _index_of(steps: Sequence[_SourceStep], line: int) -> int | None:
    found = [number for number, step in enumerate(steps) if step.first <= line <= step.last]
    return found[0] if len(found) == 1 else None


def _steps(body: Sequence[ast.stmt], guards: tuple[str, ...]) -> Iterator[_SourceStep]:
    for statement in body:
        if isinstance(statement, _SCOPES):
            continue
        heads, bodies, decides = _parts(statement)
        reads = frozenset(name for head in heads for name in _names(head, ast.Load))
        binds = frozenset(name for head in heads for name in _names(head, ast.Store)) | _changed(statement)
        first = statement.lineno
        last = max((head.end_lineno or first for head in heads if isinstance(head, ast.expr | ast.stmt)), default=first)
        leaves = isinstance(statement, _EXITS)
        commands = isinstance(statement, ast.Expr)
        yield _SourceStep(first, last, reads, binds, frozenset(guards), leaves, commands)
        for inner in bodies:
            yield from _steps(inner, (*guards, *reads) if decides else guards)


def _parts(statement: ast.stmt) -> tuple[list[ast.AST], list[list[ast.stmt]], bool]:
    """The expressions of a statement's head, its blocks, and whether the head decides if the blocks run."""
    match statement:
        case ast.If(test=test, body=body, orelse=orelse) | ast.While(test=test, body=body, orelse=orelse):
            return [test], [body, orelse], True
        case ast.For(target=target, iter=items, body=body) | ast.AsyncFor(target=target, iter=items, body=body):
            return [target, items], [body, statement.orelse], True
        case ast.With(items=managers, body=body) | ast.AsyncWith(items=managers, body=body):
            heads: list[ast.AST] = []
            for manager in managers:
                heads.append(manager.context_expr)
                if manager.optional_vars is not None:
                    heads.append(manager.optional_vars)
            return heads, [body], False
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
            return [], [body, *(handler.body for handler in handlers), orelse, final], False
        case ast.Match(subject=subject, cases=cases):
            return [subject], [case.body for case in cases], True
    return [statement], [], False


def _names(node: ast.AST, context: type[ast.expr_context]) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, context):
            yield each.id


def _changed(statement: ast.stmt) -> frozenset[str]:
    """The names whose objects a statement may change: `found[key] = …`, `found.append(…)`."""
    names: set[str] = set()
    for node in ast.walk(statement) if not hasattr(statement, "body") else ():
        changed: ast.AST | None = None
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            changed = node.value.func
        while isinstance(changed, ast.Attribute | ast.Subscript):
            changed = changed.value
        if isinstance(changed, ast.Name):
            names.add(changed.id)
    return frozenset(names)


def _is_repeated(node: ast.AST, line: int) -> bool:
    """Whether a loop repeats the line: what it iterates over is evaluated once."""
    once: ast.AST | None = None
    if isinstance(node, ast.For | ast.AsyncFor):
        once = node.iter
    elif isinstance(node, _COMPREHENSIONS):
        once = node.generators[0].iter
    if once is None or not _covers(once, line):
        return True
    names = ("body",) if isinstance(node, _LOOPS) else ("elt", "key", "value")
    parts = (getattr(node, name, []) for name in names)
    return any(_covers(each, line) for part in parts for each in (part if isinstance(part, list) else [part]))


def _function_at(site: CallSite) -> _Function | None:
    """The innermost function around a line."""
    found: _Function | None = None
    for function in _functions(site.file):
        if _covers(function, site.line) and (found is None or function.lineno >= found.lineno):
            found = function
    return found


@lru_cache(_MOST_FILES)
def _functions(file: str) -> tuple[_Function, ...]:
    lines = linecache.getlines(file)
    if not lines or len(lines) > _LONGEST:
        return ()
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions in it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, _SCOPES)]


def _covers(node: ast.AST, line: int) -> bool:
    first: int | None = getattr(node, "lineno", None)
    last: int | None = getattr(node, "end_lineno", None)
    return first is not None and last is not None and first <= line <= last
