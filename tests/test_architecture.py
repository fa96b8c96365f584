"""The house: imports fall downward, foreign packages come in by one door each, and importing does nothing."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "otel_fastperf"

#: Lowest first. A module imports from its own floor and below; a folder stands with all that is in it.
FLOORS: Final = (
    (
        "allocations",
        "application",
        "blocked",
        "budget",
        "cache_adapters",
        "client",
        "containers",
        "errors",
        "figures",
        "findings",
        "guard",
        "lifespan",
        "loopclocks",
        "orm",
        "pages",
        "peers",
        "route",
        "shipped",
        "smoke",
        "spans",
        "sql",
        "stack",
        "text",
        "ticker",
        "words",
    ),
    ("plans", "reads", "record"),
    ("sampling",),
    ("gaps",),
    ("report", "report_words", "settings", "statements"),
    (
        "checks",
        "detectors",
        "logs",
        "metrics",
        "report_formats",
        "report_html",
        "report_plots",
        "report_style",
        "report_text",
        "tracing",
    ),
    ("diagnosis", "reporting", "stack_answers", "stack_checks", "stack_tools", "terminal"),
    ("stack_command",),
    ("caches", "exposition", "signals"),
    ("waits",),
    ("instrumentation", "monitors"),
    ("telemetry",),
    ("__init__",),
    ("__main__", "cli", "pytest_plugin", "surroundings"),
)

#: Folders of subjects that know nothing of each other: each can be taken out alone.
STRANGERS: Final = ("detectors", "instrumentation", "monitors")

#: Foreign package -> the modules and folders that may import it.
DOORS: Final = {
    "prometheus_client": ("exposition", "metrics"),
    "opentelemetry.sdk": ("tracing",),
    "opentelemetry.exporter": ("tracing",),
    "sqlalchemy": ("instrumentation.database", "instrumentation.explain", "instrumentation.pool"),
}
#: Foreign package -> the modules that may also import it under `if TYPE_CHECKING`.
TYPING_DOORS: Final = {"sqlalchemy": ("statements", "telemetry"), "opentelemetry.sdk": ("telemetry",)}


@dataclass(frozen=True)
class Import:
    """`module` imports `target`: both dotted, ours without the package's name."""

    module: str
    target: str
    line: int
    typing_only: bool

    def __str__(self) -> str:
        return f"otel_fastperf/{self.module.replace('.', '/')}.py:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Every module of the package: `{"tracing.provider": path}`; the package itself is `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"] = path
    return found


MODULES: Final = modules()


def imports_of(module: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[module].read_text())
    for node, typing_only in statements(tree, typing_only=False):
        for target in targets(node, module):
            yield Import(module, target, node.lineno, typing_only)


def statements(tree: ast.AST, *, typing_only: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, typing_only
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from statements(ast.Module(node.body, []), typing_only=True)
            yield from statements(ast.Module(node.orelse, []), typing_only=typing_only)
        else:
            yield from statements(node, typing_only=typing_only)


def targets(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """The modules an import names. `from a import b` names `a.b`, which a door for `a` covers too."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        is_package = MODULES[module].name == "__init__.py"
        above = ["otel_fastperf", *module.split(".")] if module != "__init__" else ["otel_fastperf"]
        kept = above[: len(above) - node.level + is_package]
        base = ".".join((*kept, base) if base else kept)
    yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(target: str) -> str | None:
    """The module of ours that a target is or is in; None for foreign ones."""
    if target != "otel_fastperf" and not target.startswith("otel_fastperf."):
        return None
    name = target.removeprefix("otel_fastperf").removeprefix(".")
    first, dot, _ = name.partition(".")
    if dot and first not in MODULES:
        return first  # of a module that is not there; importing it fails by itself
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def floor(module: str) -> int:
    """Its number; 0 for a module on no floor, for which a test of its own fails."""
    return next((number for number, names in enumerate(FLOORS) if module.split(".", maxsplit=1)[0] in names), 0)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


EVERY_IMPORT: Final = [each for module in MODULES for each in imports_of(module)]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_stands_on_a_floor(module: str) -> None:
    known = {name for names in FLOORS for name in names}
    assert module.split(".", maxsplit=1)[0] in known, (
        f"otel_fastperf/{module}.py is on no floor: put it into FLOORS in tests/test_architecture.py,"
        " on the lowest floor whose modules and those below are all it imports"
    )


def test_imports_only_fall_downward() -> None:
    rising = [
        str(each)
        for each in EVERY_IMPORT
        if (target := ours(each.target)) is not None and floor(target) > floor(each.module)
    ]
    assert not rising


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: {ours(each.target) for each in EVERY_IMPORT if each.module == module} for module in MODULES}
    for start in MODULES:
        seen: set[str] = set()
        ahead = [name for name in graph[start] if name]
        while ahead:
            module = ahead.pop()
            assert module != start, f"otel_fastperf.{start} is part of an import cycle"
            if module not in seen:
                seen.add(module)
                ahead += [name for name in graph.get(module, ()) if name]


@pytest.mark.parametrize("folder", STRANGERS)
def test_siblings_do_not_know_each_other(folder: str) -> None:
    acquainted = [
        str(each)
        for each in EVERY_IMPORT
        if inside(each.module, folder)
        and (target := ours(each.target)) is not None
        and inside(target, folder)
        and target not in {folder, each.module}
    ]
    assert not acquainted


@pytest.mark.parametrize("package", DOORS)
def test_a_foreign_package_comes_in_by_its_door(package: str) -> None:
    elsewhere = [
        str(each)
        for each in EVERY_IMPORT
        if inside(each.target, package)
        and not any(inside(each.module, door) for door in DOORS[package])
        and not (each.typing_only and any(inside(each.module, door) for door in TYPING_DOORS.get(package, ())))
    ]
    assert not elsewhere, f"{package} is for {' and '.join(DOORS[package])} only"


WATCH: Final = '''
"""Imports every module of the package and prints what it did besides."""
import gc, importlib, logging, os, signal, sys, threading, time

import anyio, fastapi, prometheus_client, pydantic
from opentelemetry import propagate, trace

modules, package = sys.argv[1].split(","), sys.argv[2]
did = []


def doer():
    """The module of ours that is running, but for what it runs by importing a foreign module."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(package):
            return os.path.relpath(frame.f_code.co_filename, package)
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return None
        frame = frame.f_back


def note(what):
    who = doer()
    if who is not None:
        did.append(f"{who} {what}")


def audit(event, arguments):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.fork"):
        note(event)


class Thread(threading.Thread):
    def start(self):
        note("started a thread")
        super().start()


class Environment(type(os.environ)):
    def __getitem__(self, key):
        if not key.startswith("PYDANTIC_"):  # pydantic's own switches, at each class that is a model
            note(f"read the environment variable {key}")
        return super().__getitem__(key)

    def __iter__(self):
        note("read the environment")
        return super().__iter__()


def world():
    return {
        "default Prometheus registry": sorted(family.name for family in prometheus_client.REGISTRY.collect()),
        "tracer provider": trace._TRACER_PROVIDER,
        "propagator": propagate.get_global_textmap(),
        "threads": threading.enumerate(),
        "gc.callbacks": list(gc.callbacks),
        "root log handlers": list(logging.getLogger().handlers),
        "SIGTERM handler": signal.getsignal(signal.SIGTERM),
        "SIGINT handler": signal.getsignal(signal.SIGINT),
        "sys.excepthook": sys.excepthook,
    }


before = world()
sys.addaudithook(audit)
os.environ.__class__ = Environment
threading.Thread = Thread
start = time.process_time()
for module in modules:
    importlib.import_module(module)
seconds = time.process_time() - start
after = world()
did += [f"changed: {name}" for name in before if before[name] != after[name]]
if seconds > 5:
    did.append(f"took {seconds:.1f} s of CPU")
print("\\n".join(dict.fromkeys(did)))
'''


def test_importing_starts_nothing_reads_nothing_and_changes_nothing() -> None:
    """No thread, socket, process, metric, environment variable; no global of Python, OpenTelemetry or Prometheus."""
    names = ["otel_fastperf" if module == "__init__" else f"otel_fastperf.{module}" for module in MODULES]
    done = python("-c", WATCH, ",".join(names), str(PACKAGE))
    assert done == ""


def test_the_watch_sees_what_a_module_does_on_import(tmp_path: Path) -> None:
    """The test above is able to fail."""
    (tmp_path / "culprit.py").write_text(
        "import os, socket, threading, prometheus_client\n"
        "os.environ.get('HOME'); os.getenv('PATH'); socket.socket().close()\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "prometheus_client.Counter('culprit', 'x')\n"
    )
    done = python("-c", WATCH, "culprit", str(tmp_path), path=tmp_path)
    assert done.splitlines() == [
        "culprit.py read the environment variable HOME",
        "culprit.py read the environment variable PATH",
        "culprit.py socket.__new__",
        "culprit.py started a thread",
        "changed: default Prometheus registry",
        "changed: threads",
    ]


def test_importing_the_package_loads_no_exporter() -> None:
    """They bring grpc, requests and protobuf: only who exports pays for them."""
    script = "import sys, otel_fastperf; print(*sorted({'grpc', 'requests', 'google.protobuf'} & sys.modules.keys()))"
    assert python("-c", script) == ""


def test_the_pytest_plugin_loads_nothing_that_a_test_run_did_not_ask_for() -> None:
    """It is part of every test run of every project that has this package installed."""
    heavy = "{'fastapi', 'starlette', 'sqlalchemy', 'opentelemetry', 'pydantic', 'prometheus_client'}"
    script = f"import sys, otel_fastperf.pytest_plugin; print(*sorted({heavy} & sys.modules.keys()))"
    assert python("-c", script) == ""


def test_every_exported_name_is_there() -> None:
    script = "import otel_fastperf; print(*(n for n in dir(otel_fastperf) if not hasattr(otel_fastperf, n)))"
    assert python("-c", script) == ""
    assert python("-c", "from otel_fastperf import *; print(setup_telemetry.__name__)") == "setup_telemetry"


def python(*arguments: str, path: Path = ROOT) -> str:
    """Run a fresh interpreter; its output."""
    environment = {"PYTHONPATH": f"{path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=path, text=True, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    machine = re.compile("|".join(("/(work|home|Users)" + "/[a-z]", "/tmp" + "/lab", r"[.]pyenv/" + "versions/[0-9]")))
    telling = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if machine.search(line)
    ]
    assert not telling


def project_files() -> Iterator[Path]:
    """All but what the Makefile's targets make."""
    for path in ROOT.rglob("*"):
        top, *below = path.relative_to(ROOT).parts
        made = top in {".git", "dist"} or (top.startswith(".") and below and top != ".ci")
        if path.is_file() and not made and "__pycache__" not in below:
            yield path
