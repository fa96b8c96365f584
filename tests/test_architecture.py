"""The architecture: importing does nothing, class names are unique, and no file depends on the author's machine.

import-linter checks the layers (`[tool.importlinter]`). Ruff's TID251 (`banned-api`) allows each foreign package in few
files only. Both run in `make lint`.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "otel_fastperf"


def modules() -> Iterator[str]:
    """Yield the name of every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_two_classes_of_the_package_share_a_name() -> None:
    """A leading underscore does not make a name different."""
    homes: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in re.findall(r"^ *class _?(\w+)", path.read_text(), re.MULTILINE):
            homes.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


WATCH: Final = '''
"""Imports every module of the package and prints the side effects."""
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
    """Importing touches no thread, socket, process, metric, environment variable or global of another library."""
    done = python("-c", WATCH, ",".join(modules()), str(PACKAGE))
    assert done == ""


def test_the_watch_detects_each_side_effect_of_an_import(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
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
    """The exporters import grpc, requests and protobuf, which cost memory and time."""
    script = "import sys, otel_fastperf; print(*sorted({'grpc', 'requests', 'google.protobuf'} & sys.modules.keys()))"
    assert python("-c", script) == ""


def test_the_pytest_plugin_loads_nothing_until_it_is_used() -> None:
    """Pytest loads the plugin in every project that has this package installed."""
    heavy = "{'fastapi', 'starlette', 'sqlalchemy', 'opentelemetry', 'pydantic', 'prometheus_client'}"
    script = f"import sys, otel_fastperf.pytest_plugin; print(*sorted({heavy} & sys.modules.keys()))"
    assert python("-c", script) == ""


def test_every_exported_name_exists() -> None:
    script = "import otel_fastperf; print(*(n for n in dir(otel_fastperf) if not hasattr(otel_fastperf, n)))"
    assert python("-c", script) == ""
    assert python("-c", "from otel_fastperf import *; print(setup_telemetry.__name__)") == "setup_telemetry"


def python(*arguments: str, path: Path = ROOT) -> str:
    """Run code in a new interpreter, and return its output."""
    environment = {"PYTHONPATH": f"{path}:{ROOT}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=path, text=True, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_file_contains_paths_of_the_author_s_machine() -> None:
    machine = re.compile("|".join(("/(work|home|Users)" + "/[a-z]", "/tmp" + "/lab", r"[.]pyenv/" + "versions/[0-9]")))
    telling = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if machine.search(line)
    ]
    assert not telling


def project_files() -> Iterator[Path]:
    """Yield the files of the project, without those created by Makefile targets."""
    for path in ROOT.rglob("*"):
        top, *below = path.relative_to(ROOT).parts
        made = top in {".git", "dist"} or (top.startswith(".") and below and top != ".ci")
        if path.is_file() and not made and "__pycache__" not in below:
            yield path
