"""Is a stack that `stack init` has written sound? One function for each thing, as in `checks`."""

import json
import re
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.cli.stack.files import (
    COMPOSE,
    ENVIRONMENT,
    JAEGER_UI,
    SECRET,
    Manifest,
    address,
    beside,
    hash_of,
    variables,
)
from otel_fastperf.cli.stack.generated import HOST

_SECONDS: Final = 2.0
#: of a page of metrics, enough to know ours
_MOST_BYTES: Final = 4 * 1024 * 1024
#: the user that Grafana's image runs as
_GRAFANA: Final = 472
#: where Alertmanager's receivers have their secrets; the user that its image runs as
_ALERTMANAGER: Final = "deploy/alertmanager"
_NOBODY: Final = 65534
_SHORTEST_SECRET: Final = 8
_MOST_PORT: Final = 65535
_PLACEHOLDER: Final = re.compile(
    r"\b(?:CHANGE_?ME|REPLACE_?ME|YOUR_[A-Z_]+|example\.(?:com|net|org))\b|<YOUR[ _A-Z-]*>"
)
_TARGET: Final = re.compile(r"""["']?([\w.-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})["']?""", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack in a folder, and what it should be."""

    folder: Path
    manifest: Manifest
    #: path -> content, as this version would write it
    wanted: Mapping[str, bytes]
    #: of this version of the package
    version: str
    environ: Mapping[str, str]

    def text(self, path: str) -> str:
        """A file's content, "" where it is missing."""
        file = self.folder / path
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def variable(self, name: str, otherwise: str = "") -> str:
        """As compose takes it: from the environment, else from `.env`."""
        return self.environ.get(name) or variables(self.text(ENVIRONMENT)).get(name) or otherwise

    def configurations(self) -> Iterator[Path]:
        """Every YAML and JSON file, also those that the user has added."""
        yield from sorted(self.folder.glob("*.yml"))
        for top in ("deploy", "grafana"):
            found = sorted((self.folder / top).rglob("*"))
            yield from (path for path in found if path.suffix in {".yml", ".yaml", ".json"} and path.is_file())

    def name(self, path: Path) -> str:
        """A path in the stack."""
        return path.relative_to(self.folder).as_posix()


def check_stack(stack: Stack) -> Iterator[Check]:
    """All that needs no other program, in a fixed order."""
    for look in _CHECKS:
        yield from look(stack)


def check_files(stack: Stack) -> Iterator[Check]:
    """What is missing fails; what was changed is the user's right."""
    written = stack.manifest.files
    there = {path: file.read_bytes() for path in written if (file := stack.folder / path).is_file()}
    missing = sorted(written.keys() - there.keys())
    again = f"otel-fastperf stack init {stack.folder}"
    for path in missing:
        # nothing reads the pages and the tests of rules
        level = Level.INFO if path.endswith(".md") or "/tests/" in path else Level.BAD
        yield Check("files", level, f"{path} is missing.", f"{again} --force")
    changed = sorted(path for path, content in there.items() if hash_of(content) != written[path])
    if changed:
        yield Check("files", Level.INFO, f"Changed by you, and left alone by stack init: {', '.join(changed)}.")
    for path in sorted(written):
        if beside(stack.folder / path, "new").is_file():
            what = f"{path}.new waits: the stack's version of a file that you changed."
            yield Check("files", Level.WARN, what, f"diff -u {path} {path}.new; take what you want, and remove it")
    if stack.manifest.version != stack.version:
        what = f"The stack was written by otel-fastperf {stack.manifest.version}; {stack.version} is installed."
        yield Check("files", Level.INFO, what, again)
    if not missing and not changed:
        yield Check("files", Level.OK, f"All {len(there)} files are there, as they were written.")


def check_syntax(stack: Stack) -> Iterator[Check]:
    """JSON always; YAML where PyYAML is installed, which the package does not require."""
    parse = _yaml_parser()
    files, broken = 0, False
    for path in stack.configurations():
        read: Callable[[str], object] | None = json.loads if path.suffix == ".json" else parse
        if read is None:
            continue
        files += 1
        try:
            read(path.read_text(encoding="utf-8"))
        except Exception as error:  # noqa: BLE001 - of a library that is not imported here
            broken = True
            what = f"{stack.name(path)} cannot be read: {' '.join(str(error).split())}"
            yield Check("syntax", Level.BAD, what, "correct that line")
    if parse is None:
        what = "PyYAML is not installed, so only the JSON files were read."
        yield Check("syntax", Level.INFO, what, "pip install pyyaml")
    if not broken:
        yield Check("syntax", Level.OK, f"{files} files can be read.")


def _yaml_parser() -> Callable[[str], object] | None:
    try:
        import yaml
    except ImportError:
        return None

    class Loader(yaml.SafeLoader):
        """Knows any tag: compose has `!override`."""

    Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)

    def parse(text: str) -> object:
        return list(yaml.load_all(text, Loader))

    return parse


def check_placeholders(stack: Stack) -> Iterator[Check]:
    """A receiver that was taken from an example sends nothing until its address is filled in."""
    for path in stack.configurations():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found = _PLACEHOLDER.search(line)
            # examples that nothing reads until they are copied keep theirs
            if found and not line.lstrip().startswith("#") and not _is_shipped_so(stack, path):
                what = f"{stack.name(path)}:{number} still says {found.group()}."
                yield Check("placeholders", Level.BAD, what, "put your value there")


def _is_shipped_so(stack: Stack, path: Path) -> bool:
    return stack.wanted.get(stack.name(path)) == path.read_bytes()


def check_secrets(stack: Stack) -> Iterator[Check]:
    """Compose refuses to start without them, or starts a Grafana that cannot read its password."""
    named = re.findall(r"""^\s*file:\s*["']?\./(secrets/[\w./-]+)""", stack.text(COMPOSE), re.MULTILINE)
    for path in dict.fromkeys((SECRET, *named)):
        file = stack.folder / path
        if _is_empty(file):
            fix = f"otel-fastperf stack init {stack.folder}" if path == SECRET else f"write it into {path}"
            yield Check("secrets", Level.BAD, f"{path} is missing or empty.", fix)
            continue
        yield from _check_secret(path, file)
    for path in _receivers_secrets(stack):
        file = stack.folder / path
        if _is_empty(file):
            yield Check("secrets", Level.BAD, f"{path} is missing or empty.", f"write it into {path}")
        elif not _is_readable(file, _NOBODY):
            what = f"{path} cannot be read by Alertmanager's user ({_NOBODY}): a bind mount keeps its mode."
            yield Check("secrets", Level.BAD, what, f"chmod 755 {_ALERTMANAGER}/secrets && chmod 444 {path}")


def _receivers_secrets(stack: Stack) -> Iterator[str]:
    """Files that Alertmanager reads when it sends, by its path for them or from the folder of its configuration."""
    text = stack.text(f"{_ALERTMANAGER}/alertmanager.yml")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for name in dict.fromkeys(re.findall(r"""_file:\s*["']?(?:/etc/alertmanager/)?(secrets/[\w.-]+)""", code)):
        yield f"{_ALERTMANAGER}/{name}"


def _is_empty(file: Path) -> bool:
    return not file.is_file() or not file.read_bytes().strip()


def _is_readable(file: Path, user: int) -> bool:
    """For a user of a container, who comes through the folder that the file is in; groups aside."""
    state, folder = file.stat(), file.parent.stat()
    reads = state.st_mode & (stat.S_IRUSR if state.st_uid == user else stat.S_IROTH)
    return bool(reads and folder.st_mode & (stat.S_IXUSR if folder.st_uid == user else stat.S_IXOTH))


def _check_secret(path: str, file: Path) -> Iterator[Check]:
    state, folder = file.stat(), stat.S_IMODE(file.parent.stat().st_mode)
    if path == SECRET and len(file.read_bytes().strip()) < _SHORTEST_SECRET:
        what = f"{path} is shorter than {_SHORTEST_SECRET} characters."
        yield Check("secrets", Level.BAD, what, "write a longer one; change it in Grafana too if that has started")
    elif path == SECRET and not state.st_mode & stat.S_IROTH and state.st_uid != _GRAFANA:
        what = f"{path} cannot be read by Grafana's user ({_GRAFANA}): a bind mount keeps its mode."
        yield Check("secrets", Level.BAD, what, f"chmod 700 secrets && chmod 444 {path}")
    elif state.st_mode & stat.S_IROTH and folder & (stat.S_IXGRP | stat.S_IXOTH):
        what = f"{path} can be read by every user of this machine."
        yield Check("secrets", Level.WARN, what, "chmod 700 secrets: containers do not come through the folder")
    else:
        yield Check("secrets", Level.OK, f"{path} is there.")


def check_targets(stack: Stack) -> Iterator[Check]:
    """Prometheus scrapes what the target files name. Whether it reaches them from its network, only it can tell."""
    found = list(dict.fromkeys(target for path in _target_files(stack) for target in _targets(path)))
    if not found:
        what = "Prometheus has no target: no file in deploy/prometheus/targets names one."
        yield Check("targets", Level.BAD, what, f"otel-fastperf stack init {stack.folder} --target HOST:PORT")
    for host, port in found:
        why = _no_metrics("127.0.0.1" if host == HOST else host, port)
        if why:
            what = f"{host}:{port} {why}."
            fix = "start the app with setup_telemetry; of a name that only containers know, this says nothing"
            yield Check("targets", Level.WARN, what, fix)
        else:
            yield Check("targets", Level.OK, f"{host}:{port}/metrics answers.")


def _target_files(stack: Stack) -> list[Path]:
    return [path for path in stack.configurations() if stack.name(path).startswith("deploy/prometheus/targets/")]


def _targets(path: Path) -> Iterator[tuple[str, int]]:
    """By text, since PyYAML may be missing: the items of lists, in their block form, their flow form, and JSON."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        flow = re.search(r"""targets["']?\s*:\s*\[(.*?)\]""", line)
        items = flow.group(1).split(",") if flow else [re.sub(r"^\s*-\s+|,$|\s+#.*$", "", line)]
        for item in items:
            found = _TARGET.fullmatch(item.strip())
            if found:
                yield found.group(1), int(found.group(2))


def _no_metrics(host: str, port: int) -> str:
    """Why there are no metrics of ours, "" where there are."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}/metrics", timeout=_SECONDS) as answer:
            page: bytes = answer.read(_MOST_BYTES)
    except HTTPError as error:
        return f"answers {error.code} for /metrics"
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"does not answer: {reason}"
    return "" if b"fastperf_" in page else "answers for /metrics, but not with metrics of otel-fastperf"


def check_links(stack: Stack) -> Iterator[Check]:
    """Everything else takes Grafana's address from `.env`; Jaeger's links have it in a file."""
    url = address("GRAFANA_URL", {**variables(stack.text(ENVIRONMENT)), **stack.environ})
    if stack.text(JAEGER_UI) and url not in stack.text(JAEGER_UI):
        what = f"Links in Jaeger do not lead to Grafana: {JAEGER_UI} does not have {url}."
        yield Check("links", Level.WARN, what, f"otel-fastperf stack init {stack.folder} --grafana-url {url}")


def check_ports(stack: Stack) -> Iterator[Check]:
    """Two that want one port, or one that somebody else has, stop `docker compose up` half-way."""
    wanted: dict[int, str] = {}
    taken = []
    for name, default in dict(re.findall(r"\$\{(\w+_PORT):-(\d+)\}:\d", stack.text(COMPOSE))).items():
        text = stack.variable(name, default)
        port = int(text) if text.isascii() and text.isdecimal() else 0
        if not 1 <= port <= _MOST_PORT:
            what = f"{name}={text!r} must be a port, 1 to {_MOST_PORT}."
            yield Check("ports", Level.BAD, what, f"set {name}={default} in {ENVIRONMENT}")
        elif port in wanted:
            what = f"{name} and {wanted[port]} are both {port}."
            yield Check("ports", Level.BAD, what, f"set another {name} in {ENVIRONMENT}")
        else:
            wanted[port] = name
            # the demo is started on demand only
            if name != "DEMO_PORT" and not _is_free(port):
                taken.append(f"{port} ({name})")
    if taken:
        what = f"In use: {', '.join(taken)}; by this stack, if it runs."
        yield Check("ports", Level.WARN, what, f"else set other ports in {ENVIRONMENT}")
    elif wanted:
        yield Check("ports", Level.OK, "All ports that the stack wants are free.")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            return True  # below 1024: docker may, we may not
        except OSError:
            return False
    return True


_CHECKS: Final[tuple[Callable[[Stack], Iterator[Check]], ...]] = (
    check_files,
    check_syntax,
    check_placeholders,
    check_secrets,
    check_targets,
    check_links,
    check_ports,
)
