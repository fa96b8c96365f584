"""Which cgroups limit the process, read from prepared texts of `/proc`."""

from pathlib import Path

import pytest

from otel_fastperf.internals.cgroups import limiting_cgroups, text_of


def mounted(point: Path | str, root: str = "/", kind: str = "cgroup2", options: str = "rw,nsdelegate") -> str:
    """A line of /proc/self/mountinfo."""
    return f"35 24 0:30 {root} {point} rw,nosuid shared:9 - {kind} {kind} {options}\n"


OTHER_MOUNTS = (
    "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n36 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def test_the_cgroup_of_a_container_is_the_root_of_its_mount() -> None:
    """Docker and Kubernetes with cgroup v2 and a cgroup namespace."""
    found = limiting_cgroups("memory", "0::/\n", OTHER_MOUNTS + mounted("/sys/fs/cgroup"))
    assert list(found) == [Path("/sys/fs/cgroup")]


def test_a_nested_cgroup_is_limited_by_all_cgroups_above_it() -> None:
    """A systemd service on a host."""
    assert list(limiting_cgroups("memory", "0::/system.slice/shop.service\n", mounted("/sys/fs/cgroup"))) == [
        Path("/sys/fs/cgroup/system.slice/shop.service"),
        Path("/sys/fs/cgroup/system.slice"),
        Path("/sys/fs/cgroup"),
    ]


def test_a_mount_of_a_part_of_the_hierarchy_starts_at_that_part() -> None:
    """Docker on cgroup v1: the path is the host's, and so is the root of the mount."""
    cgroup = "9:name=systemd:/docker/4f1d\n4:cpu,cpuacct:/docker/4f1d\n3:memory:/docker/4f1d/worker\n0::/\n"
    mounts = OTHER_MOUNTS + mounted("/sys/fs/cgroup/memory", "/docker/4f1d", "cgroup", "rw,memory")
    found = limiting_cgroups("memory", cgroup, mounts)
    assert list(found) == [Path("/sys/fs/cgroup/memory/worker"), Path("/sys/fs/cgroup/memory")]


def test_the_v1_hierarchy_counts_if_it_has_the_memory_controller() -> None:
    """Both are mounted in systemd's hybrid set-up."""
    mounts = mounted("/sys/fs/cgroup/unified") + mounted("/sys/fs/cgroup/memory", "/", "cgroup", "rw,memory")
    assert next(limiting_cgroups("memory", "3:memory:/a\n0::/b\n", mounts)) == Path("/sys/fs/cgroup/memory/a")
    assert next(limiting_cgroups("memory", "3:cpu:/a\n0::/b\n", mounts)) == Path("/sys/fs/cgroup/unified/b")


@pytest.mark.parametrize("path", ["/../../other", "/kubepods/pod1/container"])
def test_a_path_outside_of_the_mount_means_the_mount(path: str) -> None:
    """A process moved out of its cgroup namespace, or a mount made in another namespace."""
    found = limiting_cgroups("memory", f"0::{path}\n", mounted("/sys/fs/cgroup", "/kubepods/pod2"))
    assert list(found) == [Path("/sys/fs/cgroup")]


def test_of_several_mounts_the_one_with_the_path_counts() -> None:
    mounts = mounted("/elsewhere", "/other") + mounted("/sys/fs/cgroup", "/mine")
    assert list(limiting_cgroups("memory", "0::/mine\n", mounts)) == [Path("/sys/fs/cgroup")]


@pytest.mark.parametrize(("cgroup", "mountinfo"), [("", ""), ("0::/\n", OTHER_MOUNTS), ("", OTHER_MOUNTS)])
def test_without_cgroup_files_there_is_no_cgroup(cgroup: str, mountinfo: str) -> None:
    assert list(limiting_cgroups("memory", cgroup, mountinfo)) == []


def test_each_controller_has_its_own_cgroup_with_v1() -> None:
    cgroup = "4:cpu,cpuacct:/a\n3:memory:/b\n0::/\n"
    mounts = mounted("/sys/fs/cgroup/cpu", "/", "cgroup", "rw,cpu,cpuacct")
    assert next(limiting_cgroups("cpu", cgroup, mounts)) == Path("/sys/fs/cgroup/cpu/a")
    assert list(limiting_cgroups("memory", cgroup, mounts)) == []


def test_a_file_that_cannot_be_read_has_no_text(tmp_path: Path) -> None:
    assert text_of(tmp_path / "gone") == ""
