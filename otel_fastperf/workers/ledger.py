"""A worker's file: its lock is held for the worker's life, and its content is what the worker has told last.

The content is replaced in place, since the lock belongs to the file. A new one is written beside the old one before the
head points to it: whoever reads, and whoever is killed meanwhile, has one of the two.
"""

import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from otel_fastperf.workers.file_lock import locked, unlock

#: magic, start, length and checksum of the content, id and process of the owner
_HEAD: Final = struct.Struct("<8sQQQ16sQ")
_MAGIC: Final = b"fastperf"
_ATTEMPTS: Final = 5
_NOBODY: Final = bytes(16)


class Head(NamedTuple):
    """The first bytes of a file: where its content is, and whose it is."""

    start: int
    length: int
    check: int
    owner: bytes
    pid: int


class Ledger:
    """An open file with one content. Reads and writes are safe against a writer in another process."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path: Final = path

    @classmethod
    def opened(cls, path: Path, *, create: bool) -> Self:
        """Open a file to read and write. Raises `OSError`."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        return cls(os.open(path, flags, 0o600), path)

    def lock(self) -> bool:
        """Take the lock for as long as the file is open; False if a living worker has it."""
        return locked(self._fd)

    def read(self) -> bytes:
        """The content; empty if there is none, or if it is damaged."""
        for _ in range(_ATTEMPTS):
            head = self.head()
            if head is None:
                return b""
            content = os.pread(self._fd, head.length, head.start)
            if len(content) == head.length and zlib.crc32(content) == head.check:
                return content
        return b""

    def write(self, content: bytes, owner: bytes = _NOBODY) -> None:
        """Replace the content. Raises `OSError`; the old one is kept then."""
        old = self.head()
        start = _HEAD.size
        if old is not None and start + len(content) > old.start:
            start = old.start + old.length
        _write_all(self._fd, content, start)
        head = _HEAD.pack(_MAGIC, start, len(content), zlib.crc32(content), owner, os.getpid())
        _write_all(self._fd, head, 0)
        if start == _HEAD.size:
            with suppress(OSError):
                os.ftruncate(self._fd, start + len(content))

    def remove(self) -> None:
        """Remove the file. Those who have opened it can still read it."""
        self.path.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let go of the lock, also if a forked child still has the file open."""
        unlock(self._fd)

    def close(self) -> None:
        """Close the file, and so let go of its lock."""
        os.close(self._fd)

    def head(self) -> Head | None:
        """What the file says of its content; None while it has none."""
        head = os.pread(self._fd, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            return None
        magic, *fields = _HEAD.unpack(head)
        return Head(*fields) if magic == _MAGIC else None

    def age(self) -> float:
        """Seconds since the last write."""
        return max(time.time() - os.fstat(self._fd).st_mtime, 0.0)

    def is_at_its_path(self) -> bool:
        """Whether the file has not been removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.lstat())
        except OSError:
            return False


def _write_all(fd: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, start)
        view, start = view[written:], start + written


def is_held(path: Path) -> bool:
    """Whether a living worker has the lock of this file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not locked(file, shared=True)
    finally:
        os.close(file)
