"""Validate the stack's files with the programs that read them.

Each program runs from the stack's image if Docker already has it, otherwise from the PATH. If a program rejects a file,
the file may be wrong, or the program may be a different version from the stack's. The shipped files are the control: if
the program rejects those too, its verdict proves nothing.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.cli.stack.files import COMPOSE, write_file
from otel_fastperf.cli.stack.yaml_files import document, inner
from otel_fastperf.internals.text_safety import printable

_SECONDS: Final = 60.0
#: maximum number of lines shown of a program's output
_MOST_LINES: Final = 12

#: path in the container -> path in the stack
_MOUNTS: Final = {
    "/etc/prometheus": "deploy/prometheus",
    "/etc/alertmanager": "deploy/alertmanager",
    "/etc/jaeger": "deploy/jaeger",
    "/etc/loki": "deploy/loki",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and the questions it answers."""

    name: str
    #: alternative commands, in order of preference
    programs: tuple[tuple[str, ...], ...]
    #: folder of a stack -> {question: arguments}
    questions: Callable[[Path], dict[str, list[str]]]
    #: the service whose image contains it, and its name there; "" is the image's entry point
    image: tuple[str, str]
    #: what remains unchecked without it
    covers: str
    #: the first version that can read all of that
    since: tuple[int, int] = (0, 0)


def _compose(folder: Path) -> dict[str, list[str]]:
    # --no-interpolate would hide a missing variable
    base = ["--project-directory", str(folder), "-f", str(folder / COMPOSE)]
    asked = {COMPOSE: [*base, "config", "--quiet"]}
    for overlay in sorted(folder.glob("compose.*.yml")):
        asked[f"{COMPOSE} with {overlay.name}"] = [*base, "-f", str(overlay), "config", "--quiet"]
    return asked


def _prometheus(folder: Path) -> dict[str, list[str]]:
    return _one(folder / "deploy/prometheus/prometheus.yml", "check", "config")


def _one(file: Path, *words: str) -> dict[str, list[str]]:
    """One question; none if the file is missing."""
    return {file.name: [*words, str(file)]} if file.is_file() else {}


def _rules(folder: Path) -> dict[str, list[str]]:
    rules = [str(path) for path in sorted(folder.glob("deploy/prometheus/rules/*.yml"))]
    return {"rules": ["check", "rules", *rules]} if rules else {}


def _alertmanager(folder: Path) -> dict[str, list[str]]:
    return _one(folder / "deploy/alertmanager/alertmanager.yml", "check-config")


def _collector(folder: Path) -> dict[str, list[str]]:
    return _layers(folder / "deploy/collector/config.yaml", folder.glob("deploy/collector/overlays/*.yaml"))


def _loki(folder: Path) -> dict[str, list[str]]:
    file = folder / "deploy/loki/config.yaml"
    arguments = [f"-config.file={file}", "-config.expand-env=true", "-verify-config"]
    return {f"loki/{file.name}": arguments} if file.is_file() else {}


def _jaeger(folder: Path) -> dict[str, list[str]]:
    return _layers(folder / "deploy/jaeger/config.yaml", folder.glob("deploy/jaeger/*.yaml"))


def _layers(base: Path, overlays: Iterable[Path]) -> dict[str, list[str]]:
    """The configuration alone, and with each overlay."""
    if not base.is_file():
        return {}
    name = f"{base.parent.name}/{base.name}"
    asked = {name: ["validate", f"--config={base}"]}
    for overlay in sorted({*overlays} - {base}):
        layers = [base, *_below(overlay), overlay]
        asked[f"{name} with {overlay.name}"] = ["validate", *(f"--config={layer}" for layer in layers)]
    return asked


def _below(overlay: Path) -> list[Path]:
    """`persistent-tls.yaml` goes on top of `persistent.yaml` and `tls.yaml`."""
    words = overlay.stem.split("-")
    for cut in range(1, len(words)):
        both = [overlay.with_stem("-".join(part)) for part in (words[:cut], words[cut:])]
        if all(path.is_file() for path in both):
            return both
    return []


def _kustomizations(folder: Path) -> dict[str, list[str]]:
    found = sorted((folder / "deploy/kubernetes").rglob("kustomization.yaml"))
    return {str(path.parent.relative_to(folder)): ["kustomize", str(path.parent)] for path in found}


_PROMTOOL: Final = ("prometheus", "promtool")
TOOLS: Final = (
    Tool("docker compose", (("docker", "compose"), ("docker-compose",)), _compose, ("", ""), "the compose files"),
    Tool("promtool", (("promtool",),), _prometheus, _PROMTOOL, "deploy/prometheus/prometheus.yml", (3, 0)),
    Tool("promtool", (("promtool",),), _rules, _PROMTOOL, "deploy/prometheus/rules"),
    # the receivers for webhooks: url_file came with 0.26, timeout with 0.28
    Tool("amtool", (("amtool",),), _alertmanager, ("alertmanager", "amtool"), "deploy/alertmanager", (0, 28)),
    Tool("otelcol", (("otelcol-contrib",), ("otelcol",)), _collector, ("otel-collector", ""), "deploy/collector"),
    Tool("jaeger", (("jaeger",),), _jaeger, ("jaeger", ""), "deploy/jaeger"),
    Tool("loki", (("loki",),), _loki, ("loki", ""), "deploy/loki"),
)
_KUBECTL: Final = Tool("kubectl", (("kubectl",),), _kustomizations, ("", ""), "deploy/kubernetes")
#: those whose files are in a stack for Kubernetes too
_SHARED: Final = ("otelcol", "jaeger")


def check_tools(
    folder: Path, shipped: Mapping[str, bytes], environ: Mapping[str, str], *, kubernetes: bool = False
) -> Iterator[Check]:
    """Let each program check the files in `folder`; `shipped` is what `stack init` would write."""
    tools = (_KUBECTL, *(tool for tool in TOOLS if tool.name in _SHARED)) if kubernetes else TOOLS
    with tempfile.TemporaryDirectory(prefix="otel-fastperf-") as scratch:
        ours, theirs = Path(scratch) / "ours", Path(scratch) / "theirs"
        for path, content in shipped.items():
            write_file(ours / path, content)
        shutil.copytree(folder, theirs, ignore=shutil.ignore_patterns("secrets", ".git"), ignore_dangling_symlinks=True)
        for copied in (ours, theirs):
            _as_in_container(copied)
        for tool in tools:
            yield from _ask(tool, theirs, ours, environ)


def _as_in_container(folder: Path) -> None:
    """Replace paths in the container, by which the files refer to each other, with paths on this machine."""
    for path in (*folder.glob("deploy/**/*.yml"), *folder.glob("deploy/**/*.yaml")):
        text = path.read_bytes()
        for mount, there in _MOUNTS.items():
            text = re.sub(rb"(?<![\w.-])" + mount.encode() + rb"(?=/)", str(folder / there).encode(), text)
        path.write_bytes(text)


def _ask(tool: Tool, theirs: Path, ours: Path, environ: Mapping[str, str]) -> Iterator[Check]:
    command = _in_image(tool, theirs, environ) or _installed(tool, environ)
    if command is None:
        what = f"Not installed, so {tool.covers} could not be fully checked."
        yield Check(tool.name, Level.INFO, what)
        return
    control, right = tool.questions(ours), []
    for question, arguments in tool.questions(theirs).items():
        refused, said = _run([*command, *arguments], theirs, environ)
        if not refused:
            right.append(question)
        elif old := _too_old(tool, command, theirs, environ):
            yield Check(tool.name, Level.INFO, f"{old}; {question} could not be fully checked:\n{said}")
        elif question in control and _run([*command, *control[question]], ours, environ)[0]:
            what = (
                f"The installed version also rejects our unmodified {question}, so its verdict proves nothing:\n{said}"
            )
            yield Check(tool.name, Level.WARN, what)
        else:
            yield Check(tool.name, Level.BAD, f"{question} is rejected:\n{said}", "correct the reported lines")
    if right:
        yield Check(tool.name, Level.OK, f"Accepts {', '.join(right)}.")


def _too_old(tool: Tool, command: list[str], folder: Path, environ: Mapping[str, str]) -> str:
    """That this version cannot read what the stack's files may contain; "" if it can."""
    if tool.since == (0, 0):
        return ""
    found = re.search(r"version v?((\d+)\.(\d+)[\w.-]*)", _run([*command, "--version"], folder, environ)[1])
    if found is None or (int(found[2]), int(found[3])) >= tool.since:
        return ""
    return f"Version {found[1]} is too old for {tool.covers}, which needs {'.'.join(map(str, tool.since))} or newer"


def _installed(tool: Tool, environ: Mapping[str, str]) -> list[str] | None:
    for program, *words in tool.programs:
        path = shutil.which(program, path=environ.get("PATH"))
        # docker may be installed without its compose plugin
        if path and (not words or not _run([path, *words, "version"], Path(), environ)[0]):
            return [path, *words]
    return None


def _in_image(tool: Tool, theirs: Path, environ: Mapping[str, str]) -> list[str] | None:
    """The version that the stack runs, if Docker already has its image; nothing is pulled."""
    service, program = tool.image
    docker = shutil.which("docker", path=environ.get("PATH"))
    image = _image(service, theirs)
    named = re.fullmatch(r"[\w./:@-]+", image)
    if not (service and docker and named) or _run([docker, "image", "inspect", image], theirs, environ)[0]:
        return None
    scratch = theirs.parent
    alone = ["--rm", "--pull=never", "--network=none", "--read-only"]
    if hasattr(os, "getuid"):  # Docker on Windows has users of its own
        alone.append(f"--user={os.getuid()}:{os.getgid()}")
    entry = [f"--entrypoint={program}"] if program else []
    return [docker, "run", *alone, f"--volume={scratch}:{scratch}:ro", *entry, image]


def _image(service: str, folder: Path) -> str:
    """The image of a service in the compose file or an overlay; "" if there is none."""
    for path in (folder / COMPOSE, *sorted(folder.glob("compose.*.yml"))):
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if image := inner(document(text), "services", service, "image"):
            return str(image)
    return ""


def _run(command: list[str], folder: Path, environ: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the program rejected its input, and the end of its output."""
    try:
        done = subprocess.run(  # noqa: S603 - installed programs, with our own arguments
            command, cwd=folder, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", check=False, timeout=_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return True, str(error)
    said = done.stdout.replace(f"{folder}/", "")
    lines = [line.rstrip()[:300] for line in said.splitlines() if line.strip()]
    return done.returncode != 0, "\n".join(printable(line) for line in lines[-_MOST_LINES:])
