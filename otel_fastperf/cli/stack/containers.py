"""What runs on this machine's Docker: which ports and which names of Compose are taken, and by whom."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 10.0
_LABEL: Final = "com.docker.compose.project"
_FORMAT: Final = "\t".join((
    f'{{{{.Label "{_LABEL}"}}}}', f'{{{{.Label "{_LABEL}.working_dir"}}}}', "{{.Names}}", "{{.Ports}}"
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Container:
    """A container, running or stopped."""

    name: str
    #: Compose's name of the stack it belongs to; "" if Compose did not start it
    project: str
    #: the folder that Compose was started for; "" if it was not Compose
    folder: str
    #: ports of this machine that it publishes now
    ports: frozenset[int]

    def is_of(self, folder: Path) -> bool:
        """Whether it was started for the stack in this folder."""
        return bool(self.folder) and Path(self.folder).resolve() == folder.resolve()


def containers(environ: Mapping[str, str]) -> tuple[Container, ...] | None:
    """All containers of this machine; None if that is unknown, because there is no Docker, or it does not answer."""
    docker = shutil.which("docker", path=environ.get("PATH"))
    if docker is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - an installed program, with our own arguments
            [docker, "ps", "--all", "--no-trunc", "--format", _FORMAT], env=dict(environ), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else tuple(_parsed(done.stdout))


def _parsed(output: str) -> Iterator[Container]:
    for line in output.splitlines():
        fields = line.split("\t")
        if len(fields) == _FORMAT.count("\t") + 1:
            project, folder, name, ports = fields
            yield Container(name, project, folder, frozenset(_published(ports)))


def _published(text: str) -> Iterator[int]:
    """The ports of this machine in `127.0.0.1:3000->3000/tcp, [::]:80-82->80-82/tcp, 9090/tcp`."""
    for first, last in re.findall(r":(\d+)(?:-(\d+))?->", text):
        yield from range(int(first), int(last or first) + 1)
