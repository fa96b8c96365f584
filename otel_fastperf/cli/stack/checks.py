"""Check a stack that `stack init` has written: one function for each subject, as in `setup_checks`."""

import json
import re
import shlex
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otel_fastperf.cli.http_client import NoResponseError, http_request
from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.cli.stack.containers import Container
from otel_fastperf.cli.stack.files import (
    COMPOSE,
    ENVIRONMENT,
    JAEGER_UI,
    SECRET,
    Manifest,
    address,
    beside,
    compare,
    hash_of,
    project_of,
    variables,
)
from otel_fastperf.cli.stack.generated import HOST
from otel_fastperf.cli.stack.published import published
from otel_fastperf.cli.stack.yaml_files import document, inner, parse

_SECONDS: Final = 2.0
#: of a metrics page; enough to recognise ours
_MOST_BYTES: Final = 4 * 1024 * 1024
#: user id in Grafana's image
_GRAFANA: Final = 472
#: Alertmanager's configuration, and the user id in its image
_ALERTMANAGER: Final = "deploy/alertmanager"
_NOBODY: Final = 65534
_SHORTEST_SECRET: Final = 8
_MOST_PORT: Final = 65535
_PLACEHOLDER: Final = re.compile(
    r"\b(?:CHANGE_?ME|REPLACE_?ME|YOUR_[A-Z_]+|example\.(?:com|net|org))\b|<YOUR[ _A-Z-]*>"
)
_TARGET: Final = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack in a folder, and its expected files."""

    folder: Path
    manifest: Manifest
    #: path -> content that this version would write
    wanted: Mapping[str, bytes]
    #: installed version of the package
    version: str
    environ: Mapping[str, str]
    #: of this machine; None if unknown
    containers: Sequence[Container] | None = None

    def text(self, path: str) -> str:
        """A file's content; "" if it is missing."""
        file = self.folder / path
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def variable(self, name: str, otherwise: str = "") -> str:
        """A variable as Compose resolves it: from the environment, otherwise from `.env`."""
        return self.environ.get(name) or variables(self.text(ENVIRONMENT)).get(name) or otherwise

    def configurations(self) -> Iterator[Path]:
        """All YAML and JSON files, including those added by the user."""
        yield from sorted(self.folder.glob("*.yml"))
        for top in ("deploy", "grafana"):
            found = sorted((self.folder / top).rglob("*"))
            yield from (path for path in found if path.suffix in {".yml", ".yaml", ".json"} and path.is_file())

    def name(self, path: Path) -> str:
        """A path relative to the stack."""
        return path.relative_to(self.folder).as_posix()


def check_stack(stack: Stack) -> Iterator[Check]:
    """Run the checks that start no other program, in a fixed order."""
    for look in _OF_FILES if stack.manifest.answers.kubernetes else (*_OF_FILES, *_OF_COMPOSE):
        yield from look(stack)


def check_files(stack: Stack) -> Iterator[Check]:
    """Compare the files with the manifest. A missing file is bad; a changed file is the user's choice."""
    written = stack.manifest.files
    there = {path: file.read_bytes() for path in written if (file := stack.folder / path).is_file()}
    missing = sorted(written.keys() - there.keys())
    quoted = shlex.quote(str(stack.folder))
    again = f"otel-fastperf stack init {quoted}"
    for path in missing:
        # no server reads documentation or rule tests
        level = Level.INFO if path.endswith(".md") or "/tests/" in path else Level.BAD
        yield Check("files", level, f"{path} is missing.", f"{again} --force")
    changed = sorted(path for path, content in there.items() if hash_of(content) != written[path])
    if changed:
        yield Check("files", Level.INFO, f"Changed by you, so stack init keeps them: {', '.join(changed)}.")
    for path in sorted(written):
        if beside(stack.folder / path, "new").is_file():
            what = f"{path}.new is the new version of a file that you changed, and has not been merged."
            yield Check(
                "files", Level.WARN, what, f"{compare(stack.folder, path)}; merge what you need, then delete it"
            )
    if stack.manifest.version != stack.version:
        what = f"The stack was written by otel-fastperf {stack.manifest.version}; {stack.version} is installed."
        yield Check("files", Level.INFO, what, f"otel-fastperf stack upgrade {quoted}")
    if not missing and not changed:
        yield Check("files", Level.OK, f"All {len(there)} files are present and unchanged.")


def check_syntax(stack: Stack) -> Iterator[Check]:
    """Whether every YAML and JSON file can be parsed."""
    files, broken = 0, False
    for path in stack.configurations():
        read: Callable[[str], object] = json.loads if path.suffix == ".json" else parse
        files += 1
        try:
            read(path.read_text(encoding="utf-8"))
        except ValueError as error:
            broken = True
            what = f"{stack.name(path)} cannot be parsed: {' '.join(str(error).split())}"
            yield Check("syntax", Level.BAD, what, "correct this line")
    if not broken:
        yield Check("syntax", Level.OK, f"All {files} YAML and JSON files can be parsed.")


def check_placeholders(stack: Stack) -> Iterator[Check]:
    """A receiver copied from an example sends nothing until its address is filled in."""
    for path in stack.configurations():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found = _PLACEHOLDER.search(line)
            # shipped examples keep theirs; no server reads them until they are copied
            if found and not line.lstrip().startswith("#") and not _is_shipped_so(stack, path):
                what = f"{stack.name(path)}:{number} still contains {found.group()}."
                yield Check("placeholders", Level.BAD, what, "replace it with your value")


def _is_shipped_so(stack: Stack, path: Path) -> bool:
    return stack.wanted.get(stack.name(path)) == path.read_bytes()


def check_secrets(stack: Stack) -> Iterator[Check]:
    """Without its secrets Compose does not start, or Grafana cannot read its password."""
    for path in dict.fromkeys((SECRET, *_compose_secrets(stack))):
        file = stack.folder / path
        if _is_empty(file):
            remedy = f"otel-fastperf stack init {stack.folder}" if path == SECRET else f"write it into {path}"
            yield Check("secrets", Level.BAD, f"{path} is missing or empty.", remedy)
            continue
        yield from _check_secret(path, file)
    for path in _receivers_secrets(stack):
        file = stack.folder / path
        if _is_empty(file):
            yield Check("secrets", Level.BAD, f"{path} is missing or empty.", f"write it into {path}")
        elif not _is_readable(file, _NOBODY):
            what = f"{path} cannot be read by Alertmanager's user ({_NOBODY}): a bind mount keeps its mode."
            yield Check("secrets", Level.BAD, what, f"chmod 755 {_ALERTMANAGER}/secrets && chmod 444 {path}")


def _compose_secrets(stack: Stack) -> Iterator[str]:
    """Paths of the secrets that the compose file mounts."""
    secrets = inner(document(stack.text(COMPOSE)), "secrets")
    for secret in secrets.values() if isinstance(secrets, dict) else ():
        found = re.fullmatch(r"\./(secrets/[\w./-]+)", str(inner(secret, "file")))
        if found:
            yield found.group(1)


def _receivers_secrets(stack: Stack) -> Iterator[str]:
    """Files that Alertmanager reads when it sends; their paths are absolute or relative to its configuration."""
    for value in dict.fromkeys(_file_settings(document(stack.text(f"{_ALERTMANAGER}/alertmanager.yml")))):
        found = re.fullmatch(r"(?:/etc/alertmanager/)?(secrets/[\w.-]+)", value)
        if found:
            yield f"{_ALERTMANAGER}/{found.group(1)}"


def _file_settings(value: object) -> Iterator[str]:
    """The values of all settings whose names end in `_file`."""
    if isinstance(value, dict):
        yield from (str(each) for key, each in value.items() if str(key).endswith("_file"))
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _file_settings(each)


def _is_empty(file: Path) -> bool:
    return not file.is_file() or not file.read_bytes().strip()


def _is_readable(file: Path, user: int) -> bool:
    """Whether a container's user can read a file and enter its folder; groups are ignored."""
    state, folder = file.stat(), file.parent.stat()
    reads = state.st_mode & (stat.S_IRUSR if state.st_uid == user else stat.S_IROTH)
    return bool(reads and folder.st_mode & (stat.S_IXUSR if folder.st_uid == user else stat.S_IXOTH))


def _check_secret(path: str, file: Path) -> Iterator[Check]:
    state, folder = file.stat(), stat.S_IMODE(file.parent.stat().st_mode)
    if path == SECRET and len(file.read_bytes().strip()) < _SHORTEST_SECRET:
        what = f"{path} is shorter than {_SHORTEST_SECRET} characters."
        yield Check("secrets", Level.BAD, what, "write a longer one; change it in Grafana too, if that has started")
    elif path == SECRET and not state.st_mode & stat.S_IROTH and state.st_uid != _GRAFANA:
        what = f"{path} cannot be read by Grafana's user ({_GRAFANA}): a bind mount keeps its mode."
        yield Check("secrets", Level.BAD, what, f"chmod 700 secrets && chmod 444 {path}")
    elif state.st_mode & stat.S_IROTH and folder & (stat.S_IXGRP | stat.S_IXOTH):
        what = f"Every user of this machine can read {path}."
        yield Check("secrets", Level.WARN, what, "chmod 700 secrets; containers mount the file without its folder")
    else:
        yield Check("secrets", Level.OK, f"{path} is present.")


def check_targets(stack: Stack) -> Iterator[Check]:
    """Prometheus scrapes the listed targets. From here, we cannot tell whether its container reaches them."""
    found = list(dict.fromkeys(target for path in _target_files(stack) for target in _targets(path)))
    if not found:
        what = "Prometheus has no target: deploy/prometheus/targets lists none."
        yield Check("targets", Level.BAD, what, f"otel-fastperf stack init {stack.folder} --target HOST:PORT")
    for host, port in found:
        why = _no_metrics("127.0.0.1" if host == HOST else host, port)
        if why:
            what = f"{host}:{port} {why}."
            remedy = "start the app with setup_telemetry; ignore this for a name that only containers can resolve"
            yield Check("targets", Level.WARN, what, remedy)
        else:
            yield Check("targets", Level.OK, f"{host}:{port}/metrics responds.")


def _target_files(stack: Stack) -> list[Path]:
    return [path for path in stack.configurations() if stack.name(path).startswith("deploy/prometheus/targets/")]


def _targets(path: Path) -> Iterator[tuple[str, int]]:
    groups = document(path.read_text(encoding="utf-8", errors="replace"))
    for group in groups if isinstance(groups, list) else ():
        for item in inner(group, "targets") or ():
            found = _TARGET.fullmatch(str(item))
            if found:
                yield found.group(1), int(found.group(2))


def _no_metrics(host: str, port: int) -> str:
    """Why a target has no metrics of ours; "" if it has."""
    url = f"http://{host}:{port}/metrics"
    try:
        # like Prometheus: it follows redirects, and uses no proxy
        response = http_request(
            "GET", url, timeout=_SECONDS, most_bytes=_MOST_BYTES, follow_redirects=True, bypass_proxy=True
        )
    except (NoResponseError, ValueError) as error:
        return f"does not respond: {error}"
    if not response.is_success:
        return f"responds {response.status} for /metrics"
    return "" if b"fastperf_" in response.body else "serves /metrics without metrics of otel-fastperf"


def check_links(stack: Stack) -> Iterator[Check]:
    """Jaeger's links contain Grafana's address; everything else takes it from `.env`."""
    url = address("GRAFANA_URL", {**variables(stack.text(ENVIRONMENT)), **stack.environ})
    if stack.text(JAEGER_UI) and url not in stack.text(JAEGER_UI):
        what = f"Links in Jaeger do not lead to Grafana: {JAEGER_UI} does not contain {url}."
        yield Check("links", Level.WARN, what, f"otel-fastperf stack init {stack.folder} --grafana-url {url}")


def check_name(stack: Stack) -> Iterator[Check]:
    """Compose finds containers and volumes by the stack's name: two stacks with one name are one for it."""
    name = stack.variable("COMPOSE_PROJECT_NAME") or str(inner(document(stack.text(COMPOSE)), "name") or "")
    others = {
        each.folder
        for each in stack.containers or ()
        # after a move, the old folder is gone, and the containers are still the stack's own
        if each.project == name and not each.is_of(stack.folder) and each.folder and Path(each.folder).is_dir()
    }
    for folder in sorted(others):
        what = (
            f"The stack in {folder} has the same name, {name}: `docker compose up` here would replace its containers"
            " and use its volumes."
        )
        own = project_of(stack.folder)
        remedy = f"otel-fastperf stack init {stack.folder} --project {own if own != name else f'{own}-2'}"
        yield Check("name", Level.WARN, what, remedy)


def check_ports(stack: Stack) -> Iterator[Check]:
    """A port that is used twice, or by another program, makes `docker compose up` fail half-way."""
    wanted: dict[int, str] = {}
    for each in published(stack.text(COMPOSE)):
        name = each.variable or f"the port of {each.service}"
        text = stack.variable(each.variable, each.default) if each.variable else each.default
        port = int(text) if text.isascii() and text.isdecimal() else 0
        if not 1 <= port <= _MOST_PORT:
            what = f"{name}={text!r} must be a port, 1 to {_MOST_PORT}."
        elif wanted.setdefault(port, name) != name:
            what = f"{name} and {wanted[port]} are both {port}."
        else:
            continue
        cure = f"set another {name} in {ENVIRONMENT}" if each.variable else f"change it in {COMPOSE}"
        yield Check("ports", Level.BAD, what, cure)
    if wanted:
        yield _in_use(stack, wanted)


def _in_use(stack: Stack, wanted: Mapping[int, str]) -> Check:
    by = {port: _taken_by(stack, port) for port in wanted}
    taken = ", ".join(f"{port} ({wanted[port]}){whom}" for port, whom in by.items() if whom is not None)
    if not taken:
        return Check("ports", Level.OK, "All ports of the stack are free, or its own.")
    if stack.containers is None:
        what = f"In use: {taken}. This is fine if the stack is running."
        return Check("ports", Level.WARN, what, f"otherwise set other ports in {ENVIRONMENT}")
    return Check("ports", Level.WARN, f"In use: {taken}.", f"set other ports in {ENVIRONMENT}")


def _taken_by(stack: Stack, port: int) -> str | None:
    """By whom a port is taken, as ` by …` or "" if that is unknown; None if it is free, or the stack itself has it."""
    owners = [each for each in stack.containers or () if port in each.ports]
    if any(each.is_of(stack.folder) for each in owners):
        return None
    if owners:
        return f" by the container {owners[0].name}"
    if _is_free(port):
        return None
    return "" if stack.containers is None else " by a program of this machine"


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            return True  # below 1024: Docker may bind it, we may not
        except OSError:
            return False
    return True


_OF_FILES: Final[tuple[Callable[[Stack], Iterator[Check]], ...]] = (
    check_files,
    check_syntax,
    check_placeholders,
)
#: what the machine that runs Compose decides
_OF_COMPOSE: Final[tuple[Callable[[Stack], Iterator[Check]], ...]] = (
    check_secrets,
    check_targets,
    check_links,
    check_name,
    check_ports,
)
