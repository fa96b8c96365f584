"""The cgroups of this process: where the kernel says what its container may use."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

Controller = Literal["cpu", "memory"]


def limiting_cgroups(controller: Controller, cgroup: str, mountinfo: str) -> Iterator[Path]:
    """Yield the directories of the cgroups that limit the process: its own, then all mounted ones above it.

    Takes the texts of `/proc/<pid>/cgroup` and `/proc/<pid>/mountinfo` (proc_pid_cgroup(5), proc_pid_mountinfo(5)).
    A container sees its own cgroup as the root of a mount, whatever the path on the host. So if the path lies outside
    of every mount, the first mount is the process's cgroup.
    """
    version, path = _path(controller, cgroup)
    mounts = list(_mounts(controller, version, mountinfo))
    for root, point in mounts:
        if path.is_relative_to(root) and ".." not in path.parts:
            below = path.relative_to(root)
            yield from (point / step for step in (below, *below.parents))
            return
    yield from (point for _, point in mounts[:1])


def _path(controller: Controller, cgroup: str) -> tuple[str, PurePosixPath]:
    """Return the file system type of the hierarchy with the controller, and the process's path in it."""
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    if controller in paths:
        return "cgroup", PurePosixPath(paths[controller])
    return "cgroup2", PurePosixPath(paths.get("", "/"))


def _mounts(controller: Controller, version: str, mountinfo: str) -> Iterator[tuple[PurePosixPath, Path]]:
    """Yield the mounts of that hierarchy: the cgroup at the mount's root, and the mount point."""
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        words = kind.split()
        if words[:1] == [version] and (version == "cgroup2" or controller in words[-1].split(",")):
            fields = mount.split()
            yield PurePosixPath(fields[3]), Path(fields[4])


def text_of(path: Path) -> str:
    """The text of a file of the kernel; empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
