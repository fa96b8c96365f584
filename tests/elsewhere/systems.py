"""Makes this process look as if it ran on another operating system, for code that is imported afterwards.

What the other system lacks is missing: modules cannot be imported, attributes are gone, and `/proc` and `/sys` are not
there. What Python itself and other packages have imported before stays as it is.
"""

import builtins
import io
import os
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Literal

#: Linux without `/proc`, as in some sandboxes, and two others
System = Literal["sandbox", "darwin", "win32"]

#: https://docs.python.org/3/library/ says for each of them on which systems it is available
_MODULES: Final[dict[System, tuple[str, ...]]] = {
    "sandbox": (),
    "darwin": (),
    "win32": ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"),
}
_LINUX_ONLY: Final = {
    "os": "sched_getaffinity sched_setaffinity memfd_create eventfd pidfd_open getrandom setns unshare",
    "socket": "SO_PEERCRED AF_NETLINK AF_PACKET AF_VSOCK",
    "time": "pthread_getcpuclockid CLOCK_BOOTTIME",
    "resource": "RUSAGE_THREAD prlimit",
}
_POSIX_ONLY: Final = {
    "os": (
        "fork forkpty register_at_fork posix_spawn posix_spawnp wait wait3 wait4 waitid killpg nice"
        " getuid geteuid getgid getegid getgroups getpgid getpgrp getsid setuid setgid setsid setpgid"
        " uname sysconf confstr getloadavg getpriority sched_yield pread pwrite preadv pwritev readv writev"
        " chown fchown lchown fchmod chroot fchdir statvfs fstatvfs mkfifo mknod openpty ttyname sendfile sync"
        " O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK O_NOCTTY O_SYNC O_DSYNC WNOHANG"
    ),
    "socket": "AF_UNIX SO_REUSEPORT CMSG_LEN CMSG_SPACE SCM_RIGHTS send_fds recv_fds",
    "time": "clock_gettime clock_gettime_ns clock_getres clock_settime CLOCK_MONOTONIC CLOCK_REALTIME tzset",
    "signal": (
        "SIGKILL SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGPROF alarm pause"
        " setitimer getitimer pthread_kill pthread_sigmask sigpending sigwait sigwaitinfo sigtimedwait siginterrupt"
    ),
}
_LACKS: Final[dict[System, tuple[dict[str, str], ...]]] = {
    "sandbox": (),
    "darwin": (_LINUX_ONLY,),
    "win32": (_LINUX_ONLY, _POSIX_ONLY),
}


def pretend(system: System) -> None:
    """Look like that system until this process ends."""
    # Python reads a file for it that is named after the system
    sysconfig.get_config_vars()
    _hide_the_kernel()
    _connect_pairs_by_tcp()
    for lacks in _LACKS[system]:
        for module, names in lacks.items():
            for name in names.split():
                vars(_module(module)).pop(name, None)
    for name in _MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment] # what `import` takes for a module that is not there
    if system != "sandbox":
        sys.platform = system


def _module(name: str) -> ModuleType:
    return {"os": os, "socket": socket, "time": time, "signal": signal}.get(name) or __import__(name)


def _hide_the_kernel() -> None:
    """Have functions that take a path find neither `/proc` nor `/sys`."""
    # one object under two names
    opened = _blind(builtins.open)
    vars(builtins)["open"] = vars(io)["open"] = opened
    for name in ("open", "stat", "lstat", "access", "listdir", "scandir", "readlink"):
        vars(os)[name] = _blind(vars(os)[name])


def _blind(function: Callable[..., Any]) -> Callable[..., Any]:
    def blind(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if not isinstance(path, int) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, os.strerror(2), path)
        return function(path, *arguments, **options)

    return blind


def _connect_pairs_by_tcp() -> None:
    """Keep asyncio's own pairs of sockets, which on this machine need what is about to go."""
    pair, family = socket.socketpair, socket.AF_UNIX
    vars(socket)["socketpair"] = lambda: pair(family)
