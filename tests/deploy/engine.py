"""A Docker engine for tests with its own images: a real `docker compose up` where images cannot be pulled.

`engine()` starts a separate dockerd with its own socket and data folder, and stops it. It never uses the machine's
engine, because the images here have the names of the real ones. They contain the servers that `make test-stack`
builds, FROM scratch, with busybox if the real image has a shell. Grafana cannot be built: its image is a stand-in that
answers /api/health and says so.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.deploy.servers import DEPLOY, PATIENCE_SECONDS, ROOT, program
from tests.serving import wait_until
from tools.servers import built

COMPOSE: Final = Path(sys.executable).parent / "docker-compose"
BUSYBOX: Final = Path("/bin/busybox")
MACHINES_ENGINE: Final = Path("/var/run/docker.sock")
STAND_IN: Final = "STAND-IN, not Grafana"


@cache
def missing() -> str:
    """The reason why no engine can be started here, or ""."""
    absent = [name for name in ("collector", "jaeger", "prometheus", "alertmanager", "loki") if built(name) is None]
    reasons = (
        (os.environ.get("FASTPERF_TEST_DOCKER") == "0", "FASTPERF_TEST_DOCKER=0: no engine wanted"),
        (shutil.which("dockerd") is None, "no dockerd here: apt-get install docker.io"),
        (os.geteuid() != 0, "only root can start a Docker engine"),
        (
            _answers(MACHINES_ENGINE),
            "an engine runs here already, and the images made here would take its images' names",
        ),
        (not _is_static(BUSYBOX), "no static busybox here: apt-get install busybox-static"),
        (bool(absent), f"not built here: {', '.join(absent)}; `make test-stack` builds it (needs Go 1.26)"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def _is_static(path: Path) -> bool:
    """Whether a program needs no library, that is, its ELF header names no interpreter."""
    return path.is_file() and b"ld-linux" not in path.read_bytes()[:4096]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket, for Docker's API."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Engine:
    """A Docker engine that listens on this socket."""

    socket_file: Path

    @property
    def host(self) -> str:
        """The value of DOCKER_HOST."""
        return f"unix://{self.socket_file}"

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Call the engine's API; return its answer, parsed if it is JSON."""
        connection = _UnixConnection(self.socket_file)
        try:
            headers = {"content-type": "application/x-tar"} if body is not None else {}
            connection.request(method, f"{path}?{urlencode(query, doseq=True)}", body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
            assert response.status < 300, f"{method} {path}: {response.status} {content[:500]!r}"
        finally:
            connection.close()
        return json.loads(content) if response.headers.get_content_type() == "application/json" and content else None

    def add(self, image: "Image") -> None:
        """Create an image from files."""
        repository, _, tag = image.name.rpartition(":")
        with image.tar() as archive:
            self._import(archive, repository, tag, image.changes)

    def _import(self, archive: Any, repository: str, tag: str, changes: Sequence[str]) -> None:
        connection = _UnixConnection(self.socket_file)
        query = urlencode({"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(changes)}, doseq=True)
        try:
            connection.request("POST", f"/images/create?{query}", body=archive)
            response = connection.getresponse()
            said = response.read().decode(errors="replace")
        finally:
            connection.close()
        assert response.status == 200, said
        assert '"error"' not in said, said

    def left(self, project: str) -> list[str]:
        """The containers, networks and volumes of a Compose project, by name."""
        label = json.dumps({"label": [f"com.docker.compose.project={project}"]})
        containers = self.ask("GET", "/containers/json", all="true", filters=label)
        networks = self.ask("GET", "/networks", filters=label)
        volumes = self.ask("GET", "/volumes", filters=label)["Volumes"] or []
        return [
            *(name for container in containers for name in container["Names"]),
            *(network["Name"] for network in networks),
            *(volume["Name"] for volume in volumes),
        ]


@dataclass(frozen=True, kw_only=True)
class Image:
    """The content of an image: `{path inside: file here, or content}`; folders with the id of their owner."""

    name: str
    entrypoint: Sequence[str] = ()
    user: str = "0"
    files: Mapping[str, Path | bytes] = field(default_factory=dict)
    #: `{path inside: folder here}`, copied except `_LEFT_OUT`
    trees: Mapping[str, Path] = field(default_factory=dict)
    folders: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    workdir: str = "/"
    command: Sequence[str] = ()

    @property
    def changes(self) -> list[str]:
        """The configuration, as lines of a Dockerfile."""
        return [
            f"USER {self.user}",
            f"WORKDIR {self.workdir}",
            *([f"CMD {json.dumps(list(self.command))}"] if self.command else []),
            *([f"ENTRYPOINT {json.dumps(list(self.entrypoint))}"] if self.entrypoint else []),
            *(f"ENV {name}={value}" for name, value in self.environment.items()),
            *(f"VOLUME {json.dumps([path])}" for path in self.volumes),
        ]

    @contextmanager
    def tar(self) -> Iterator[Any]:
        """The image as a tar archive, as an open file."""
        with tempfile.TemporaryFile() as output:
            with tarfile.open(fileobj=output, mode="w") as archive:
                for path, owner in {"etc": 0, "tmp": 0, **self.folders}.items():
                    archive.addfile(
                        _entry(path, kind=tarfile.DIRTYPE, mode=0o1777 if path == "tmp" else 0o755, owner=owner)
                    )
                for path, source in self.files.items():
                    content = source if isinstance(source, bytes) else source.read_bytes()
                    entry = _entry(path, mode=0o755)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                for inside, tree in self.trees.items():
                    archive.add(tree, arcname=inside, filter=partial(_as_roots, len(Path(inside).parts) - 1))
                for path, target in self.links.items():
                    entry = _entry(path, kind=tarfile.SYMTYPE)
                    entry.linkname = target
                    archive.addfile(entry)
            output.seek(0)
            yield output


#: files that the demo does not import: tests of Python, other programs
_LEFT_OUT: Final = {"test", "idlelib", "mypy", "mypyc", "pip", "setuptools", "hypothesis", "ensurepip"}


def _as_roots(above: int, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """The entry, owned by root, or None if it is left out. The first `above` parts of its name do not count."""
    if _LEFT_OUT & set(Path(entry.name).parts[above:]):
        return None
    entry.uid = entry.gid = 0
    entry.mode |= 0o444
    return entry


def _entry(path: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o755, owner: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, owner, owner
    return entry


#: the commands that health checks and the check of a volume's owner need
_SHELL: Final[Mapping[str, str]] = {
    f"bin/{name}": "/bin/busybox" for name in ("sh", "wget", "chown", "stat", "httpd", "cat", "env")
}

_GRAFANA: Final = f"""\
#!/bin/sh
echo "{STAND_IN}: answers /api/health and nothing else"
test -n "$(cat "$GF_SECURITY_ADMIN_PASSWORD__FILE")" || exit 1
echo written > /var/lib/grafana/grafana.db || exit 1
exec httpd -f -p 3000 -h /www
""".encode()


def images(names: Mapping[str, str]) -> Iterator[Image]:
    """Images of the stack's services, with the names in docker-compose.yml: `{service: image}`.

    Users, entry points, working folders and volumes are those of the real images.
    """
    shell = {"bin/busybox": BUSYBOX}
    yield Image(
        name=names["otel-collector"],
        entrypoint=["/otelcol-contrib"],
        user="10001",
        files={"otelcol-contrib": program("collector")},
    )
    yield Image(
        name=names["jaeger"],
        entrypoint=["/cmd/jaeger/jaeger-linux"],
        user="10001",
        files={"cmd/jaeger/jaeger-linux": program("jaeger"), **shell},
        links=_SHELL,
        environment={"JAEGER_LISTEN_HOST": "0.0.0.0"},
        volumes=["/tmp"],
    )
    for name, folder in (("prometheus", "prometheus"), ("alertmanager", "alertmanager")):
        yield Image(
            name=names[name],
            entrypoint=[f"/bin/{name}"],
            user="65534",
            files={f"bin/{name}": program(name), **shell},
            folders={folder: 65534},
            links=_SHELL,
            volumes=[f"/{folder}"],
        )
    yield Image(
        name=names["grafana"],
        entrypoint=["/run.sh"],
        user="472:0",
        files={
            "run.sh": _GRAFANA,
            "www/api/health": json.dumps({"database": "ok", "version": STAND_IN}).encode(),
            **shell,
        },
        folders={"var/lib/grafana": 472},
        links=_SHELL,
    )
    if "loki" in names:
        yield Image(
            name=names["loki"],
            entrypoint=["/usr/bin/loki"],
            user="10001",
            files={"usr/bin/loki": program("loki")},
            folders={"loki": 10001},
        )
    if "own-volumes" in names:
        yield Image(name=names["own-volumes"], files=shell, links=_SHELL)


_POSTGRESQL: Final = """\
#!/bin/sh
set -e
export PATH=/bin:{binaries} PGDATA=/var/lib/postgresql/data
initdb --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
exec postgres -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql -c fsync=off
"""


#: the folder of installed packages in the demo's image, as in its Dockerfile
_PACKAGES: Final = "packages"


def demo_images(names: Mapping[str, str]) -> Iterator[Image]:
    """The images of the demo and PostgreSQL, from this machine's Python and PostgreSQL and their libraries."""
    shell = {"bin/busybox": BUSYBOX}
    packages = Path(sysconfig.get_path("purelib")).resolve()
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    python = Path(sys.executable).resolve()
    modules = [path for folder in (packages, standard / "lib-dynload") for path in folder.rglob("*.so*")]
    yield Image(
        name=names["demo"],
        user="10001",
        files={
            **libraries([python, *modules]),
            str(python).lstrip("/"): python,
            **shell,
            **_sources("demo"),
            **_sources("otel_fastperf"),
        },
        # not at their path here: a checkout may lie below /tmp, over which the service mounts an empty one
        trees={_PACKAGES: packages, **_inside(_parts(standard))},
        links={**_SHELL, "bin/python": str(python)},
        environment={"PYTHONPATH": f"/app:/{_PACKAGES}", "PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        workdir="/app",
        command=_command(DEPLOY / "demo" / "Dockerfile"),
    )
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    version = binaries.parent.name
    folders = [binaries, binaries.parent / "lib", Path("/usr/share/postgresql") / version]
    programs = [
        path
        for folder in folders[:2]
        for path in folder.rglob("*")
        if path.is_file() and b"\x7fELF" in path.read_bytes()[:4]
    ]
    yield Image(
        name=names["postgres"],
        entrypoint=["/run.sh"],
        files={
            **libraries(programs),
            **shell,
            "run.sh": _POSTGRESQL.format(binaries=binaries).encode(),
            "etc/passwd": b"root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n",
        },
        trees=_inside(folders),
        folders={"var/lib/postgresql": 999, "var/run/postgresql": 999},
        links={**_SHELL, "bin/pg_isready": str(binaries / "pg_isready")},
    )


def _sources(package: str) -> dict[str, Path | bytes]:
    """The Python files of one of our packages, under /app."""
    return {f"app/{path.relative_to(ROOT)}": path for path in (ROOT / package).rglob("*.py")}


def _inside(folders: Sequence[Path]) -> dict[str, Path]:
    """Each at the same path inside as here."""
    return {str(folder).lstrip("/"): folder for folder in folders}


def _parts(standard: Path) -> list[Path]:
    """Python's standard library, without installed packages."""
    return [path for path in standard.iterdir() if path.name not in {"site-packages", "dist-packages"}]


def _command(dockerfile: Path) -> list[str]:
    """The CMD line of a Dockerfile."""
    line = next(line for line in reversed(dockerfile.read_text().splitlines()) if line.startswith("CMD "))
    command: list[str] = json.loads(line.removeprefix("CMD "))
    return command


def libraries(programs: Sequence[Path]) -> dict[str, Path | bytes]:
    """The system libraries of these programs, and their loader, each at the same path."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    found = {Path(path) for path in re.findall(r"(?:=> |^\s)(/\S+) \(0x", said, flags=re.MULTILINE)}
    return {str(path).lstrip("/"): path for path in found if "site-packages" not in path.parts}


@contextmanager
def engine() -> Iterator[Engine]:
    """A separate engine, removed afterwards with all its data; skips the test if it does not start."""
    with tempfile.TemporaryDirectory(prefix="fastperf-docker-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        bridge_was_there = _has_bridge()
        # dockerd chooses the storage driver: overlay2 if the file system supports it, otherwise vfs.
        command = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
        command += ["--pidfile", str(folder / "pid"), "--host", f"unix://{folder / 'socket'}"]
        with ExitStack() as stack:
            log = stack.enter_context((folder / "log").open("wb"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            stack.callback(_stop, process, remove_bridge=not bridge_was_there)
            socket_file = folder / "socket"
            wait_until(lambda: process.poll() is not None or _answers(socket_file), seconds=PATIENCE_SECONDS)
            if process.poll() is not None:
                last = (folder / "log").read_text(errors="replace").splitlines()[-1:]
                pytest.skip(f"dockerd does not start here: {' '.join(last)[:300]}")
            yield Engine(socket_file)


def _stop(process: "subprocess.Popen[bytes]", *, remove_bridge: bool) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
    if remove_bridge and _has_bridge():
        subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True)


def _has_bridge() -> bool:
    return Path("/sys/class/net/docker0").exists()


@dataclass
class Stack:
    """The shipped stack as a Compose project on an engine, in a folder with a copy of its files."""

    engine: Engine
    folder: Path
    project: str
    ports: Mapping[str, int]
    overlays: Sequence[str] = ()

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run docker-compose on the project."""
        files = [
            "-f",
            "docker-compose.yml",
            *(part for name in self.overlays for part in ("-f", f"compose.{name}.yml")),
        ]
        done = subprocess.run(
            [str(COMPOSE), "--project-name", self.project, "--progress", "plain", *files, *arguments],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "DOCKER_HOST": self.engine.host,
                **self.variables,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}\n{self.log()}"
        return done

    @property
    def variables(self) -> dict[str, str]:
        """The ports of the stack, as environment variables."""
        return {name: str(port) for name, port in self.ports.items()}

    def log(self) -> str:
        """The last lines of each service."""
        return self.compose("logs", "--tail", "12", check=False).stdout

    def services(self) -> dict[str, dict[str, Any]]:
        """What Compose reports about each container, by service."""
        lines = self.compose("ps", "--all", "--format", "json").stdout.splitlines()
        return {found["Service"]: found for found in map(json.loads, lines)}

    def container(self, service: str) -> dict[str, Any]:
        """What the engine reports about the container of a service."""
        found: dict[str, Any] = self.engine.ask("GET", f"/containers/{self.services()[service]['ID']}/json")
        return found
