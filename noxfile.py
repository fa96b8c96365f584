"""Sessions that need an environment of their own: the suite on other versions, the lock, the built package.

Run them with `make`: `make test-matrix`, `make lock`, `make lock-check`, `make test-package`. uv installs the packages
from the index that pip is configured to use.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import nox
from uv import find_uv_bin

ROOT: Final = Path(__file__).parent
LOCK: Final = ROOT / "requirements.lock"

# CPython versions, newest first. A session lists suitable ones and uses the first that is installed.
PYTHONS: Final = ("3.13", "3.12", "3.11")

# pip's option -> uv's variable; uv does not read pip's configuration.
PIP_OPTIONS: Final = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}

# Tests that depend on the interpreter: frames, the garbage collector, threads, the event loop's clock.
READS_THE_INTERPRETER: Final = (
    "tests/awaiting",
    "tests/event_loop",
    "tests/internals",
    "tests/memory",
    "tests/monitors",
)

# Tests that depend on no version.
ONCE: Final = ROOT / "tests/once.txt"

# Other telemetry, with which the suite does without: Logfire's plugin takes part in whatever process uses pydantic.
OTHER_TELEMETRY: Final = (
    "elastic-apm",
    "logfire",
    "prometheus-fastapi-instrumentator",
    "sentry-sdk",
    "starlette-exporter",
)

# Hosts of apps that the suite does without: Daphne brings Twisted along.
OTHER_HOSTS: Final = ("daphne", "mangum")

# Tests that need what is installed only for them.
NEEDS_OTHERS: Final = ("tests/guest/test_other_hosts.py", "tests/guest/test_wirings.py", "tests/migration")

# Packages whose test suites run with telemetry on: how to install them, and the dependency group of their tests.
GUESTS: Final = {
    "fastapi": ("fastapi[all]", "tests"),
    "starlette": ("starlette[full]", "dev"),
    "sqlmodel": ("sqlmodel", "tests"),
    "sqlalchemy": ("sqlalchemy[asyncio]", "tests"),
}

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = []


def matrix(name: str, pythons: Sequence[str], *requirements: str, resolution: str = "highest") -> None:
    """Register a session that runs the suite with `requirements` on the first of `pythons` that is installed."""

    @nox.session(name=name, python=next(filter(interpreter, pythons), pythons[0]), tags=["matrix"])
    def suite(session: nox.Session) -> None:
        session.install("--editable", ".", "--group", "test", "--resolution", resolution, *requirements)
        session.run("python", "-c", VERSIONS, silent=False)
        chosen = session.posargs or [
            f"--ignore={line}" for line in ONCE.read_text().splitlines() if line.startswith("tests")
        ]
        session.run("pytest", *PYTEST, *chosen)


# three on two cores: tests wait for servers and clocks most of the time
PYTEST: Final = ("-q", "--numprocesses=3", "--dist=loadgroup", "--max-worker-restart=0")
VERSIONS: Final = """
import platform
from importlib.metadata import version
names = ("fastapi", "starlette", "sqlalchemy", "opentelemetry-sdk", "prometheus-client", "pydantic")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names), sep=", ")
"""


def interpreter(version: str) -> Path | None:
    """Find a Python of this version that starts. pyenv's shims exist for versions that are not switched on."""
    return next((path for path in candidates(version) if starts(path)), None)


def candidates(version: str) -> Iterator[Path]:
    """Yield the possible paths of an interpreter: on the PATH, then in pyenv's folders."""
    found = shutil.which(f"python{version}")
    if found:
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def starts(python: Path) -> bool:
    """Tell whether an interpreter runs."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def use_the_interpreters_found() -> None:
    """Put the folders of the interpreters on the PATH, where nox and uv look for them; prevent downloads by uv."""
    folders = [str(path.parent) for path in map(interpreter, PYTHONS) if path is not None]
    os.environ["PATH"] = os.pathsep.join((*folders, os.environ["PATH"]))
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"


def use_the_index_of_pip() -> None:
    """Pass pip's configuration to uv in environment variables."""
    os.environ["UV_SYSTEM_CERTS"] = "true"
    for option, variable in PIP_OPTIONS.items():
        value = pip_option(option)
        if value:
            os.environ.setdefault(variable, value)


def pip_option(name: str) -> str:
    """Return the value of an option of pip: from the environment, else from pip.conf, else an empty string."""
    for key in (f":env:.{name}", f"install.{name}", f"global.{name}"):
        command = [sys.executable, "-m", "pip", "config", "get", key]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return ""


use_the_interpreters_found()
use_the_index_of_pip()

matrix("oldest", ("3.11",), resolution="lowest-direct")
# 0.137: `include_router` no longer flattens routes. 0.142: FastAPI traces requests without an instrumentation.
matrix("fastapi-0.136", ("3.12", "3.11"), "fastapi==0.136.*")
matrix("fastapi-0.141", ("3.12", "3.11"), "fastapi==0.141.*")
matrix("fastapi-0.142", ("3.12", "3.11"), "fastapi==0.142.*")
# The last series that contrib's SQLAlchemy instrumentation accepts.
matrix("sqlalchemy-2.0", ("3.12", "3.11"), "sqlalchemy==2.0.*")
matrix("newest", PYTHONS)


@nox.session(name="python-3.12", python="3.12", tags=["matrix"])
def python_3_12(session: nox.Session) -> None:
    """Run the tests that depend on the interpreter on the version between the oldest and the newest."""
    session.install("--editable", ".", "--group", "test")
    session.run("pytest", *PYTEST, *(session.posargs or READS_THE_INTERPRETER))


@nox.session(python=next(filter(interpreter, PYTHONS), PYTHONS[0]), tags=["matrix"])
def wirings(session: nox.Session) -> None:
    """Run the tests beside other telemetry and under rarer hosts, which are installed only here."""
    session.install("--editable", ".", "--group", "test", *OTHER_TELEMETRY, *OTHER_HOSTS)
    session.run("pytest", *PYTEST, *(session.posargs or NEEDS_OTHERS))


@nox.session(python=next(filter(interpreter, PYTHONS), PYTHONS[0]))
def guests(session: nox.Session) -> None:
    """Run the test suites of the newest FastAPI, Starlette, SQLModel and SQLAlchemy with telemetry on."""
    names = session.posargs or list(GUESTS)
    # outside of the project, whose settings for pytest are not for them
    with TemporaryDirectory() as folder:
        run_guests(session, Path(folder), names)


def run_guests(session: nox.Session, folder: Path, names: Sequence[str]) -> None:
    """Download the sources of these packages into the folder, install what their tests need, and run these."""
    options = ("--no-deps", "--no-binary", ",".join(names), "--dest", str(folder), "--quiet")
    session.run(sys.executable, "-m", "pip", "download", *options, *names, external=True)
    session.install("--editable", ".", "pytest-timeout", "pytest-xdist")
    for name in names:
        requirement, group = GUESTS[name]
        for archive in folder.glob(f"{name}-*.tar.gz"):
            shutil.unpack_archive(archive, folder, filter="data")
            version = archive.name.removeprefix(f"{name}-").removesuffix(".tar.gz")
            session.install(
                f"{requirement}=={version}", "--group", f"{folder / f'{name}-{version}'}/pyproject.toml:{group}"
            )
    session.run("python", "-m", "tools.guests", str(folder), *names)


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Write requirements.lock. Versions that still fit stay; `--upgrade` takes the newest."""
    compile_lock(session, LOCK, *session.posargs)


@nox.session(name="lock-check", venv_backend="none")
def lock_check(session: nox.Session) -> None:
    """Fail if requirements.lock does not match pyproject.toml."""
    resolved = Path(session.create_tmp(), LOCK.name)
    shutil.copy(LOCK, resolved)
    compile_lock(session, resolved)
    if resolved.read_text() != LOCK.read_text():
        session.error("requirements.lock does not match pyproject.toml. Remedy: run `make lock`.")


def compile_lock(session: nox.Session, path: Path, *options: str) -> None:
    """Resolve the `dev` group for all platforms, with hashes and without an index, so that pip can install it."""
    session.run(
        *(find_uv_bin(), "pip", "compile", "pyproject.toml", "--all-extras", "--group", "dev", "--universal"),
        *("--python-version", "3.11", "--generate-hashes", "--custom-compile-command", "make lock"),
        *("--quiet", "--output-file", str(path), *options),
        external=True,
    )


@nox.session(python=next(filter(interpreter, PYTHONS), PYTHONS[0]))
def package(session: nox.Session) -> None:
    """Install the built wheel into an empty environment and check what it declares, imports and costs."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    session.install(str(wheel))
    script = ROOT / "tests/packaging/installed.py"
    session.chdir(session.create_tmp())  # so that the installed package is imported, not the checkout
    session.run("python", str(script), env={"PYTHONPATH": ""})
