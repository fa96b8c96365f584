"""The folder of a family: in the user's runtime or temporary folder, for this user only, removed after the family."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from otel_fastperf.workers.file_lock import locked, unlock
from otel_fastperf.workers.kinship import Kinship, start_time, world
from otel_fastperf.workers.ledger import is_held

#: seconds that a worker waits for its siblings' turn; one may be stopped in the middle of its own
_PATIENCE: Final = 0.2
_POLL: Final = 0.002
#: seconds after which the folder of another boot or container is removed if nobody uses it
_OLD: Final = 7 * 86400.0


def family_folder(family: Kinship) -> Path:
    """The folder of this family, created if it does not exist yet.

    Raises:
        OSError: No folder can be used, or somebody else owns it.
    """
    failure: OSError | None = None
    for base in _bases():
        try:
            return _private(_private(base / f"otel_fastperf-{os.geteuid()}") / family.name)
        except OSError as error:
            failure = failure or error
    raise failure or FileNotFoundError


def _bases() -> Iterator[Path]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime)
    yield Path(tempfile.gettempdir())


def _private(folder: Path) -> Path:
    """Create a folder that only this user can enter, or check that it is one: others may write to `/tmp`, too."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.geteuid():
        message = f"{folder} is not a folder of this user"
        raise PermissionError(message)
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Keep the siblings out; yields False if one of them did not end its own turn in time."""
    try:
        door = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _locked(door)
    finally:
        # closing is not enough: a child that was forked meanwhile has it open, too
        unlock(door)
        os.close(door)


def _locked(door: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not locked(door):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def sweep(family: Path) -> None:
    """Remove the folders of families that are over. A last worker cannot do it: its successor may come."""
    here = world()
    for folder in family.parent.iterdir():
        if folder != family and _is_over(folder, here):
            with turn(folder) as mine:
                if mine and not _is_used(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_over(folder: Path, here: str) -> bool:
    try:
        where, parent, born, _ = folder.name.split("-")
        if where != here:
            return time.time() - folder.stat().st_mtime > _OLD
        return start_time(int(parent)) != int(born)
    except (ValueError, OSError):
        return False


def _is_used(folder: Path) -> bool:
    return any(is_held(path) for path in folder.iterdir())
