"""Locks of whole files, which end with the process that has them. Not on Windows, where no worker has siblings."""

from contextlib import suppress

with suppress(ImportError):
    import fcntl


def locked(fd: int, *, shared: bool = False) -> bool:
    """Take the lock of an open file; False if another process has it."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of the lock, also if a forked child still has the file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)
