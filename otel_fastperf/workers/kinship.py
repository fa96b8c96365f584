"""Which processes are workers of one service: they share a listening socket with the same living parent.

A server that runs workers (uvicorn, gunicorn, granian, hypercorn) opens the socket in the parent and passes it on,
whether it forks or spawns. A service in a single process opens its own, later, and has no siblings. Linux only, since
it reads `/proc`, and siblings talk over abstract sockets; elsewhere each process answers for itself.
"""

import multiprocessing
import os
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
#: field of `/proc/PID/stat` after the command's name: start time in clock ticks since boot
_START_TIME: Final = 19


@dataclass(frozen=True, slots=True)
class Kinship:
    """What siblings have in common.

    Attributes:
        world: Boot and process namespace, in which process ids are unique.
        parent: The server's own process.
        born: Start time of the parent: process ids are reused.
        service: `service.name`.
        addresses: What the shared sockets listen on.
    """

    world: str
    parent: int
    born: int
    service: str
    addresses: tuple[str, ...]

    @property
    def name(self) -> str:
        """A file name that no other family has."""
        told = "\0".join((self.service, *self.addresses))
        return f"{self.world}-{self.parent}-{self.born}-{_digest(told)}"


def can_be_known() -> bool:
    """Whether workers find each other on this system."""
    return sys.platform == "linux" and (_PROC / "self/fd").is_dir()


def kinship(service: str) -> Kinship | None:
    """The family of this process; None if it is no worker. Takes less than a millisecond."""
    if not can_be_known():
        return None
    serving = dict(_serving())
    parent = os.getppid()
    born = start_time(parent)
    if not serving or born is None:
        return None
    addresses = sorted(serving[inode] for inode in _shared(serving, parent))
    return Kinship(world(), parent, born, service, tuple(addresses)) if addresses else None


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        told = (_PROC / str(pid) / "stat").read_text(errors="replace")
        # the command's name is in parentheses and may contain anything
        return int(told.rpartition(")")[2].split()[_START_TIME])
    except (OSError, ValueError, IndexError):
        return None


def world() -> str:
    """Tells boots, and containers that share a folder, apart."""
    boot = ""
    with suppress(OSError):
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        boot += str((_PROC / "self/ns/pid").stat().st_ino)
    return _digest(boot)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=6).hexdigest()


def _serving() -> Iterator[tuple[int, str]]:
    """Inode and address of each socket of this process that can accept connections; it may not listen yet."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        with suppress(OSError, ValueError):
            told = os.fstat(int(entry))
            if stat.S_ISSOCK(told.st_mode):
                with socket.socket(fileno=os.dup(int(entry))) as found:
                    address = _bound(found)
                if address:
                    yield told.st_ino, address


def _bound(found: socket.socket) -> str:
    """What a socket is bound to; "" if it is no server's, or connected."""
    if found.type != socket.SOCK_STREAM:
        return ""
    try:
        found.getpeername()
    except OSError:
        name = found.getsockname()
        is_bound = bool(name[1]) if isinstance(name, tuple) else bool(name)
        return str(name) if is_bound else ""
    return ""


def _shared(serving: dict[int, str], parent: int) -> Sequence[int]:
    """The sockets that the parent has, too."""
    try:
        theirs = set(_sockets(parent))
    except PermissionError:
        # the server has dropped its privileges for its workers
        return [*serving] if _is_child_of_server(parent) else []
    except OSError:
        return []
    return [inode for inode in serving if inode in theirs]


def _sockets(pid: int) -> Iterator[int]:
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):  # noqa: PTH208 - names, not paths
        with suppress(FileNotFoundError):
            target = os.readlink(f"{folder}/{entry}")  # noqa: PTH115 - it is no path
            if target.startswith("socket:["):
                yield int(target[len("socket:[") : -1])


def _is_child_of_server(parent: int) -> bool:
    """Whether Python spawned this process, or it was forked: then it has its parent's command line."""
    if multiprocessing.parent_process() is not None:
        return True
    with suppress(OSError):
        return (_PROC / str(parent) / "cmdline").read_bytes() == (_PROC / "self/cmdline").read_bytes()
    return False
