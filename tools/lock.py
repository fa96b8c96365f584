"""requirements.lock: every package that `.venv` gets, with version and hashes, for all platforms.

The format is pip's own, so pip alone installs it, from any mirror; uv makes it.

    python -m tools.lock             after a change in pyproject.toml: the least change
    python -m tools.lock --upgrade   the newest versions
    python -m tools.lock --check     exit 1 when the file is not what pyproject.toml asks for
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from tools.packages import ROOT, uv

LOCK: Final = ROOT / "requirements.lock"


def main() -> None:
    """Read the command line and make or check the lock."""
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--upgrade", action="store_true", help="take the newest versions")
    what.add_argument("--check", action="store_true", help="change nothing; fail when the lock is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        check()
    else:
        compile_into(LOCK, upgrade=arguments.upgrade)


def compile_into(path: Path, *, upgrade: bool) -> None:
    """Resolve the project and its `dev` group. Versions that `path` already has are kept where they still fit."""
    uv(
        *("pip", "compile", "pyproject.toml", "--group", "dev", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--custom-compile-command", "make lock", "--output-file", str(path)),
        *(["--upgrade"] if upgrade else []),
    )


def check() -> None:
    """Resolve again from the lock and compare."""
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder, LOCK.name)
        shutil.copy(LOCK, again)
        compile_into(again, upgrade=False)
        if again.read_text() != LOCK.read_text():
            sys.exit("requirements.lock is not what pyproject.toml asks for. Run: .venv/bin/python -m tools.lock")
    print("requirements.lock is up to date")


if __name__ == "__main__":
    main()
