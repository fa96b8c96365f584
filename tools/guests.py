"""The test suites of the packages whose apps and engines are observed, run with telemetry on.

    make test-guests                       all of them
    make test-guests GUESTS="starlette"    some

`python -m tools.guests FOLDER NAME …` runs them from unpacked source distributions, `FOLDER/NAME-VERSION`, with the
interpreter that has the packages; the nox session `guests` prepares both. A test that fails is run again alone, with
telemetry and without. One that fails with telemetry only is a difference, and fails the run. Tests of the packages' own
telemetry are left out: ours makes the spans in its place.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_OBSERVED: Final = ("-p", "tools.observed")
_QUIET: Final = ("-q", "--tb=line", "-rN", "--disable-warnings")


#: package -> what to run of it
GUESTS: Final[Mapping[str, Sequence[str]]] = {
    "fastapi": (
        "tests",
        "--ignore=tests/test_telemetry",
        "--ignore=tests/test_tutorial/test_opentelemetry",
    ),
    "starlette": ("tests", "--ignore=tests/middleware/test_opentelemetry.py"),
    "sqlmodel": ("tests",),
    "sqlalchemy": (
        "test/engine",
        "test/ext/asyncio",
        "test/orm/test_eager_relations.py",
        "test/orm/test_lazy_relations.py",
        "test/orm/test_session.py",
        "test/orm/test_transaction.py",
        "test/sql/test_resultset.py",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Run the suites of the named guests; 1 if a test differs."""
    folder, *names = arguments
    differences = [line for name in names for line in _differences(name, _source(Path(folder).resolve(), name))]
    print("\n".join(differences) or "no difference", flush=True)
    return bool(differences)


def _source(folder: Path, name: str) -> Path:
    (source,) = folder.glob(f"{name}-*/")
    return source


def _differences(name: str, source: Path) -> list[str]:
    started = time.monotonic()
    failed = _failed(source, GUESTS[name], "--numprocesses=2", *_OBSERVED)
    alone = failed and _failed(source, failed, *_OBSERVED)
    always = alone and _failed(source, alone)
    print(
        f"{source.name}, {time.monotonic() - started:.0f} s: with telemetry {len(failed)} tests failed,"
        f" alone {len(alone)} of these, without telemetry {len(always)} of these",
        flush=True,
    )
    return [f"{name}: {test} fails with telemetry only" for test in sorted(alone - always)]


def _failed(source: Path, tests: Collection[str], *options: str) -> set[str]:
    """Run tests; the ids of those that fail, which pytest notes in its cache."""
    with TemporaryDirectory() as cache:
        # the package's settings, or none, but never those of a folder around it
        command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-o", f"cache_dir={cache}", *_QUIET]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(source), str(_ROOT)))}
        ended = subprocess.run([*command, *options, *tests], cwd=source, env=environment, check=False)
        noted = Path(cache, "v/cache/lastfailed")
        failed: set[str] = set(json.loads(noted.read_text())) if noted.exists() else set()
    if ended.returncode != bool(failed):
        sys.exit(f"{source.name}: pytest ended with {ended.returncode}, and {len(failed)} tests failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
