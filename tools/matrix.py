"""The test suite in environments of its own: the oldest versions that pyproject.toml allows, turning points, newest.

    python -m tools.matrix                          all environments
    python -m tools.matrix oldest newest            some
    python -m tools.matrix oldest -- tests/tracing  a part of the suite: what follows -- goes to pytest

Environments are kept in .venvs/ and brought up to date on each run. Exit 1 when a test failed anywhere.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from tools.packages import ROOT, uv

FOLDER: Final = ROOT / ".venvs"
#: seconds for one environment's suite; a hang must not take the whole of CI's time with it
PATIENCE: Final = 1200


@dataclass(frozen=True)
class Environment:
    """A set of versions. `python` is what it asks for: the first one found of these is taken."""

    name: str
    python: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    resolution: str = "highest"


ENVIRONMENTS: Final = (
    Environment("oldest", ("3.11",), resolution="lowest-direct"),
    # 0.137: `include_router` no longer flattens routes. 0.142: FastAPI traces requests by itself.
    Environment("fastapi-0.136", ("3.12", "3.11"), ("fastapi==0.136.*",)),
    Environment("fastapi-0.141", ("3.12", "3.11"), ("fastapi==0.141.*",)),
    Environment("fastapi-0.142", ("3.12", "3.11"), ("fastapi==0.142.*",)),
    # The last series that contrib's SQLAlchemy instrumentation accepts.
    Environment("sqlalchemy-2.0", ("3.12", "3.11"), ("sqlalchemy==2.0.*",)),
    Environment("newest", ("3.13", "3.12", "3.11")),
)


@dataclass
class Outcome:
    """One row of the table. `note` says why an environment did not run to its end."""

    environment: str
    python: str = ""
    fastapi: str = ""
    sqlalchemy: str = ""
    otel: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""


def main() -> None:
    """Run the environments that were asked for, print the table."""
    arguments, pytest_arguments = _command_line(sys.argv[1:])
    wanted = [each for each in ENVIRONMENTS if not arguments or each.name in arguments]
    outcomes = [run(environment, pytest_arguments) for environment in wanted]
    print("\n" + "\n".join(table(outcomes)))
    failed = [each.environment for each in outcomes if each.failed]
    if failed or not any(each.passed for each in outcomes):
        sys.exit(f"failed in: {', '.join(failed)}" if failed else "no test ran")


def _command_line(words: list[str]) -> tuple[list[str], list[str]]:
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__.splitlines()[0])
    names = [each.name for each in ENVIRONMENTS]
    parser.add_argument("environments", nargs="*", metavar="ENVIRONMENT", help=f"of {', '.join(names)}; all without")
    arguments: list[str] = parser.parse_args(words[:cut]).environments
    unknown = [name for name in arguments if name not in names]
    if unknown:
        parser.error(f"no environment {', '.join(unknown)}; there are: {', '.join(names)}")
    return arguments, words[cut + 1 :]


def run(environment: Environment, pytest_arguments: Sequence[str]) -> Outcome:
    """Bring one environment up to date and run the suite in it."""
    python = next(filter(None, map(interpreter, environment.python)), None)
    if python is None:
        return Outcome(environment.name, note=f"skipped: no Python {' or '.join(environment.python)} on this machine")
    print(f"\n{environment.name}: setting up", flush=True)
    home = prepare(environment, python)
    outcome = Outcome(environment.name, *_versions(home))
    print(f"{environment.name}: Python {outcome.python}, FastAPI {outcome.fastapi}", flush=True)
    report = home / "junit.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    status = _pytest(home, report, pytest_arguments)
    outcome.seconds = time.monotonic() - start
    _read(report, outcome)
    if status and not outcome.failed:
        outcome.failed, outcome.note = 1, f"pytest ended with {status}"
    return outcome


def interpreter(version: str) -> Path | None:
    """A Python of this version that starts: on the PATH, of pyenv, or one that uv knows."""
    return next((path for path in _candidates(version) if _starts(path, version)), None)


def _candidates(version: str) -> Iterator[Path]:
    if sys.version.startswith(version + "."):
        yield Path(sys.base_prefix, "bin", f"python{version}")
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    uv_python = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python"))
    yield from sorted(uv_python.glob(f"cpython-{version}.*/bin/python{version}"), reverse=True)


def _starts(path: Path, version: str) -> bool:
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", script], text=True, capture_output=True, check=False, timeout=30)
    except OSError:
        return False
    return done.stdout.strip() == version


def prepare(environment: Environment, python: Path) -> Path:
    """`.venvs/NAME` with the versions of this environment and the project, editable."""
    home = FOLDER / environment.name
    home.mkdir(parents=True, exist_ok=True)
    constraints, pins, venv = home / "constraints.txt", home / "requirements.txt", home / "venv"
    constraints.write_text("\n".join(environment.constraints))
    pins.unlink(missing_ok=True)  # uv would keep the versions that stand in it
    uv(
        *("pip", "compile", "pyproject.toml", "--group", "test", "--python", str(python)),
        *("--resolution", environment.resolution, "--constraint", str(constraints), "--output-file", str(pins)),
    )
    uv("venv", "--allow-existing", "--python", str(python), str(venv))
    uv("pip", "sync", "--python", str(venv), str(pins))
    uv("pip", "install", "--python", str(venv), "--no-deps", "--editable", ".")
    return home


def _versions(home: Path) -> tuple[str, str, str, str]:
    """Give the versions of Python, FastAPI, SQLAlchemy and the OpenTelemetry SDK."""
    (packages,) = home.glob("venv/lib/python3.*/site-packages")
    installed = {each.metadata["Name"].lower(): each.version for each in distributions(path=[str(packages)])}
    python = packages.parent.name.removeprefix("python")
    return python, installed["fastapi"], installed["sqlalchemy"], installed["opentelemetry-sdk"]


def _pytest(home: Path, report: Path, arguments: Sequence[str]) -> int:
    python = str(home / "venv/bin/python")
    # the shipped stack depends on no version of a library, and its tests need packages of their own
    options = ("-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--ignore=tests/deploy")
    try:
        return subprocess.run(
            [python, "-m", "pytest", *options, *arguments], cwd=ROOT, check=False, timeout=PATIENCE
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"no end after {PATIENCE} s", flush=True)
        return 1


def _read(report: Path, outcome: Outcome) -> None:
    """Take the counts from pytest's JUnit file, if it came that far."""
    if not report.exists():
        return
    for suite in ET.parse(report).iter("testsuite"):  # noqa: S314 - the file is pytest's own
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        outcome.failed += bad
        outcome.skipped += skipped
        outcome.passed += int(suite.get("tests", 0)) - bad - skipped


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The outcomes as lines of equal columns."""
    head = ("environment", "python", "fastapi", "sqlalchemy", "otel", "passed", "failed", "skipped", "seconds", "")
    rows = [
        (
            *(each.environment, each.python, each.fastapi, each.sqlalchemy, each.otel),
            *(str(each.passed), str(each.failed), str(each.skipped), f"{each.seconds:.0f}", each.note),
        )
        for each in outcomes
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, tuple("-" * width for width in widths), *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


if __name__ == "__main__":
    main()
