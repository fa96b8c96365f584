"""The apps, read from their source: header, marked lines, variants."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.truth import header
from tests.truth.header import Truth

APPS: Final = Path(__file__).with_name("apps")
_MARK: Final = re.compile(r"#.*<- (\w+)")


@dataclass(frozen=True, slots=True)
class App:
    """One app: the file `apps/NAME.py`, or the folder `apps/NAME` with `main.py`."""

    name: str
    truth: Truth
    #: `file name:line` by mark
    marks: dict[str, frozenset[str]]

    @property
    def target(self) -> str:
        """What `uvicorn` is told to run, from the folder of the apps."""
        return f"{self.name}.main:app" if (APPS / self.name).is_dir() else f"{self.name}:app"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run an app."""

    app: App
    healthy: bool
    loop: str
    #: empty without a database
    database: str

    def __str__(self) -> str:
        """`healthy uvloop sqlite`."""
        return " ".join(filter(None, (self.kind, self.loop, self.database)))

    @property
    def kind(self) -> str:
        """`healthy` or `faulty`; an app with no fault and no twin is healthy as it is."""
        truth = self.app.truth
        return "faulty" if not self.healthy and (truth.twin or truth.expected) else "healthy"


def apps() -> list[App]:
    """All apps, by name."""
    files = [path for path in APPS.glob("*.py") if not path.name.startswith("_")]
    return sorted(map(_app, (*files, *APPS.glob("*/main.py"))), key=lambda app: app.name)


def _app(path: Path) -> App:
    folder = path.parent != APPS
    sources = sorted(path.parent.rglob("*.py")) if folder else [path]
    return App(path.parent.name if folder else path.stem, _truth(path), _marks(sources))


def _truth(path: Path) -> Truth:
    for node in ast.parse(path.read_text()).body:
        name = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(name, ast.Name) and name.id == "TRUTH" and isinstance(node, ast.AnnAssign) and node.value:
            found = eval(compile(ast.Expression(node.value), str(path), "eval"), dict(vars(header)))
            assert isinstance(found, Truth)
            return found
    message = f"{path} has no `TRUTH: Final = Truth(…)`"
    raise ValueError(message)


def _marks(sources: list[Path]) -> dict[str, frozenset[str]]:
    marks: dict[str, set[str]] = {}
    for source in sources:
        text = source.read_text()
        statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
        for number, line in enumerate(text.splitlines(), 1):
            if found := _MARK.search(line):
                lines = marks.setdefault(found[1], set())
                lines.update(f"{source.name}:{covered}" for covered in _statement(statements, number))
    return {mark: frozenset(lines) for mark, lines in marks.items()}


def _statement(statements: list[ast.stmt], line: int) -> range:
    """All lines of the statement on this line, since a long one has several; without its body."""
    spans = []
    for node in statements:
        body = getattr(node, "body", None)
        end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
        if node.lineno <= line <= max(end, node.lineno):
            spans.append(range(node.lineno, max(end, node.lineno) + 1))
    return min(spans, key=len, default=range(line, line + 1))


def variants(app: App) -> Iterator[Variant]:
    """Every way to run an app."""
    for database in app.truth.databases or ("",):
        for loop in app.truth.loops:
            for healthy in (False, True) if app.truth.twin else (False,):
                yield Variant(app, healthy, loop, database)


def quick(app: App, position: int) -> Iterator[Variant]:
    """Both twins on one event loop and one database, which change from app to app."""
    truth = app.truth
    loop = truth.loops[position % len(truth.loops)]
    database = truth.databases[position // 2 % len(truth.databases)] if truth.databases else ""
    return (one for one in variants(app) if (one.loop, one.database) == (loop, database))
