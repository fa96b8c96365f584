"""The shipped stack: where its files are, how they are adapted to an app, and which of them may be written.

Most files are written verbatim; `filled` generates the few that depend on the app. A manifest records the hash of every
file that `stack init` wrote; a different hash means that the user changed the file. `plan` decides without writing, and
`write` carries it out.
"""

import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Final

from otel_fastperf.cli.stack.generated import HOST, slo_targets, targets
from otel_fastperf.errors import StackError

MANIFEST: Final = ".fastperf-stack.json"
TARGETS: Final = "deploy/prometheus/targets/app.yml"
SLO_TARGETS: Final = "deploy/prometheus/rules/slo-targets.yml"
JAEGER_UI: Final = "deploy/jaeger/ui-config.json"
ENVIRONMENT: Final = ".env"
ENVIRONMENT_EXAMPLE: Final = ".env.example"
COMPOSE: Final = "docker-compose.yml"
SECRET: Final = "secrets/grafana_admin_password"  # noqa: S105 - the file's name

#: variables of `.env` that an option of `stack init` sets, where a browser finds what the stack publishes -> the
#: variable of the port on which it is on this machine otherwise, and that port's default
URLS: Final[Mapping[str, tuple[str, int] | None]] = {
    "GRAFANA_URL": ("GRAFANA_PORT", 3000),
    "JAEGER_URL": ("JAEGER_PORT", 16686),
    "PROMETHEUS_URL": ("PROMETHEUS_PORT", 9090),
    "ALERTMANAGER_URL": ("ALERTMANAGER_PORT", 9093),
    "RUNBOOKS_URL": None,
}

_PACKAGED: Final = Path(__file__).parents[2] / "_stack"
_CHECKOUT: Final = Path(__file__).parents[3]
#: what of a checkout belongs to the stack; pyproject.toml names the same for the wheel
_TOP: Final = (COMPOSE, "compose.*.yml", ENVIRONMENT_EXAMPLE, "deploy/**/*", "grafana/**/*")
#: the demo shop is built from a checkout
_DEMO: Final = ("compose.demo.yml", "deploy/demo/", "deploy/prometheus/targets/demo.yml")
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The values that adapt the stack to an app; `cli.stack.options` validates them."""

    service: str = "my-service"
    #: `host:port`, as Prometheus reaches them
    targets: tuple[str, ...] = (f"{HOST}:8000",)
    #: percent of the requests that must not fail
    availability: str = "99.9"
    #: percent of the successful requests that must be faster than the threshold
    latency: str = "99"
    #: seconds, a bound of the buckets of http_server_request_duration_seconds
    latency_threshold: str = "0.5"
    #: a name of `URLS` -> the address
    urls: Mapping[str, str] = field(default_factory=dict)


def source() -> Path:
    """The folder that the shipped files are in: the wheel's, or the checkout's.

    Raises:
        StackError: There is neither.
    """
    if (_PACKAGED / COMPOSE).is_file():
        return _PACKAGED
    if (_CHECKOUT / COMPOSE).is_file() and (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT
    message = f"The stack's files are not in this installation ({_PACKAGED}). Cure: reinstall otel-fastperf."
    raise StackError(message)


def shipped(folder: Path) -> dict[str, bytes]:
    """The shipped files without the demo: `{"deploy/prometheus/prometheus.yml": content}`, sorted by name."""
    found = {
        path.relative_to(folder).as_posix(): path
        for pattern in _TOP
        for path in folder.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts and (path.parent.name != "secrets" or path.name[0] == ".")
    }
    return {name: found[name].read_bytes() for name in sorted(found) if not name.startswith(_DEMO)}


# What the files become for an app


def filled(files: Mapping[str, bytes], answers: Answers) -> dict[str, bytes]:
    """The files for an app: targets and objectives are generated, addresses filled in, all others as shipped.

    Raises:
        StackError: The file of Jaeger's links does not contain the address to replace.
    """
    made = dict(files)
    made[TARGETS] = targets(answers.service, answers.targets).encode()
    made[SLO_TARGETS] = slo_targets(answers.availability, answers.latency, answers.latency_threshold).encode()
    if JAEGER_UI in made:
        made[JAEGER_UI] = _jaeger_ui(made[JAEGER_UI].decode(), answers).encode()
    made["secrets/.gitignore"] = b"# Secrets stay out of version control.\n*\n!.gitignore\n"
    if ENVIRONMENT_EXAMPLE in files:
        made[ENVIRONMENT] = _environment(files[ENVIRONMENT_EXAMPLE].decode(), answers).encode()
    return dict(sorted(made.items()))


def address(name: str, variables: Mapping[str, str]) -> str:
    """The value of a variable of `URLS`, as compose has it: "" where it has no default."""
    port = URLS[name]
    default = f"http://localhost:{variables.get(port[0]) or port[1]}" if port else ""
    return variables.get(name) or default


def _environment(text: str, answers: Answers) -> str:
    lines = text.splitlines()
    for name, url in answers.urls.items():
        places = [number for number, line in enumerate(lines) if re.match(rf"#? ?{name}=", line)]
        lines[slice(places[0], places[0] + 1) if places else slice(len(lines), None)] = [f"{name}={url}"]
    return "\n".join(lines) + "\n"


def _jaeger_ui(text: str, answers: Answers) -> str:
    """Jaeger expands no variables there."""
    if address("GRAFANA_URL", {}) not in text:
        raise _no_place(JAEGER_UI, address("GRAFANA_URL", {}))
    new = {address(name, {}): url for name, url in answers.urls.items() if URLS[name]}
    if not new:
        return text
    old = "|".join(re.escape(url) for url in new)
    return re.sub(rf"(?:{old})(?![\w.-])", lambda found: new[found.group()], text)


def _no_place(path: str, place: str) -> StackError:
    message = f"{path} has no {place} to fill in. Cure: this is a fault of otel-fastperf: tell its maintainers."
    return StackError(message)


# What was written before


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the last `stack init` did."""

    version: str
    answers: Answers
    #: path -> hash of the content that was written or, for a file that the user had changed, offered
    files: Mapping[str, str]

    def to_json(self) -> str:
        """The text of the file."""
        note = "Written by `otel-fastperf stack init`: it tells the files that you changed from those it wrote."
        fields = {"note": note, "schema": _SCHEMA, **asdict(self)}
        return json.dumps(fields, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none.

    Raises:
        StackError: It is damaged, or a newer version has written it.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}. Cure: move it away; files that differ are then taken for yours."
        raise StackError(message) from None
    try:
        return _manifest(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        message = f"{path} is no manifest of a stack. Cure: move it away; files that differ are then taken for yours."
        raise StackError(message) from None


def _manifest(fields: dict[str, Any]) -> Manifest:
    if int(fields["schema"]) > _SCHEMA:
        message = (
            f"{MANIFEST}: schema={fields['schema']} is of otel-fastperf {fields['version']}; this one reads up to"
            f" {_SCHEMA}. Cure: upgrade otel-fastperf."
        )
        raise StackError(message)
    given = fields["answers"]
    files = {str(path): str(hashed) for path, hashed in fields["files"].items()}
    if any(not _is_inside(path) for path in files):
        raise ValueError
    return Manifest(
        version=str(fields["version"]),
        answers=Answers(
            service=str(given["service"]),
            targets=tuple(str(target) for target in given["targets"]),
            availability=str(given["availability"]),
            latency=str(given["latency"]),
            latency_threshold=str(given["latency_threshold"]),
            urls={name: str(url) for name, url in given["urls"].items() if name in URLS},
        ),
        files=files,
    )


def _is_inside(path: str) -> bool:
    """A manifest that was tampered with must not lead out of its folder: files are removed by it."""
    parts = PurePosixPath(path)
    return bool(path) and not parts.is_absolute() and ".." not in parts.parts and path not in {".", MANIFEST, SECRET}


def hash_of(content: bytes) -> str:
    """`sha256:…` of a file's content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# What is to be done


class Action(StrEnum):
    """What `stack init` does with a file."""

    CREATE = "create"
    #: it is as we wrote it before, and ours is another one now
    UPDATE = "update"
    SAME = "same"
    #: the user changed or removed it, and ours is the same as before: nothing to merge
    KEEP = "keep"
    #: the user changed or removed it, and ours is another one now: it is written beside
    OFFER = "offer"
    #: the user changed it, and it is overwritten (`--force`); theirs is put beside
    REPLACE = "replace"
    #: no longer part of the stack, and as we wrote it
    REMOVE = "remove"
    #: no longer part of the stack, but changed by the user
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Step:
    """One file."""

    path: str
    action: Action
    #: what we would have it be; b"" for files that are no longer part of the stack
    content: bytes = b""


def plan(
    wanted: Mapping[str, bytes], there: Mapping[str, bytes], written: Mapping[str, str], *, force: bool = False
) -> tuple[Step, ...]:
    """What to do with each file, in order of their names.

    Args:
        wanted: path -> content, all files of the stack.
        there: path -> content, those of `wanted` and `written` that are in the folder.
        written: path -> hash, from the manifest.
        force: Overwrite what the user changed.
    """
    steps = [Step(path, _action(content, there.get(path), written.get(path), force=force), content)
             for path, content in wanted.items()]  # fmt: skip
    for path in written.keys() - wanted.keys():
        if path in there:
            unchanged = hash_of(there[path]) == written[path]
            steps.append(Step(path, Action.REMOVE if unchanged else Action.LEAVE))
    return tuple(sorted(steps, key=lambda step: step.path))


def _action(ours: bytes, theirs: bytes | None, before: str | None, *, force: bool) -> Action:
    if theirs == ours:
        return Action.SAME
    if theirs is None and (before is None or force):
        return Action.CREATE
    if theirs is not None and hash_of(theirs) == before:
        return Action.UPDATE
    if force:
        return Action.REPLACE
    return Action.KEEP if before == hash_of(ours) else Action.OFFER


def present(folder: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """The contents of those files that are there. A link counts by what it leads to.

    Raises:
        StackError: Something else has a file's name.
    """
    found = {}
    for path in paths:
        file = folder / path
        try:
            found[path] = file.read_bytes()
        except FileNotFoundError:
            continue
        except (IsADirectoryError, NotADirectoryError):
            message = f"{file} must be a file, and its folders folders. Cure: move away what has its name."
            raise StackError(message) from None
    return found


def write(folder: Path, steps: Iterable[Step]) -> None:
    """Do what the plan says. Each file is whole at any moment; the manifest is not written."""
    for step in steps:
        file = folder / step.path
        if step.action in {Action.CREATE, Action.UPDATE}:
            write_file(file, step.content)
        elif step.action is Action.OFFER:
            write_file(beside(file, "new"), step.content)
        elif step.action is Action.REPLACE:
            write_file(beside(file, "old"), file.read_bytes())
            write_file(file, step.content)
        elif step.action is Action.REMOVE:
            file.unlink()


def beside(file: Path, ending: str) -> Path:
    """`alerts.yml.new`: a name that no server of the stack reads."""
    return file.with_name(f"{file.name}.{ending}")


def write_file(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step.

    The servers run as users of their own and read it through a bind mount, which keeps owner and mode: files are
    readable by all and folders can be entered by all, whatever the umask is.
    """
    _make_folder(file.parent)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as output:
            output.write(content)
            os.fchmod(output.fileno(), mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def ensure_secret(folder: Path) -> bool:
    """Make Grafana's password, unless there is one; whether it was made.

    It is never made anew: Grafana takes it at its first start only, and keeps it in its database.

    Compose hands a secret that is a file to the container by a bind mount, and ignores `uid` and `mode` of it: the
    file's own mode counts there, and Grafana's user (472) is nobody on this machine. With mode 0600 Grafana could not
    read it, and to give it to 472 takes root. So the file can be read by all, and its folder be entered by its owner
    alone: on this machine that is as good as 0600, and in the container the file is mounted without the folder.
    """
    file = folder / SECRET
    _make_folder(file.parent)
    file.parent.chmod(0o700)
    if file.is_file() and file.read_bytes().strip():
        return False
    write_file(file, f"{secrets.token_urlsafe(24)}\n".encode(), mode=0o444)
    return True


def variables(text: str) -> dict[str, str]:
    """What a `.env` file sets, as far as `NAME=value` lines go."""
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        found = re.fullmatch(r"\s*(?:export\s+)?(\w+)\s*=\s*(.*?)\s*", line)
        if found:
            value = found.group(2)
            quoted = re.fullmatch(r"""(["'])(.*)\1(?:\s+#.*)?""", value)
            yield found.group(1), quoted.group(2) if quoted else re.sub(r"(?:^|\s+)#.*", "", value)
