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
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, Final

from otel_fastperf.cli.stack.generated import HOST, prometheus_rule, slo_targets, targets
from otel_fastperf.errors import StackError

MANIFEST: Final = ".fastperf-stack.json"
TARGETS: Final = "deploy/prometheus/targets/app.yml"
SLO_TARGETS: Final = "deploy/prometheus/rules/slo-targets.yml"
JAEGER_UI: Final = "deploy/jaeger/ui-config.json"
KUBE_PROMETHEUS: Final = "deploy/kubernetes/values/kube-prometheus-stack.yaml"
ENVIRONMENT: Final = ".env"
ENVIRONMENT_EXAMPLE: Final = ".env.example"
COMPOSE: Final = "docker-compose.yml"
#: Compose's name of the stack of a checkout, and of stacks that were written before each had its own
PROJECT: Final = "otel-fastperf"
SECRET: Final = "secrets/grafana_admin_password"  # noqa: S105 - the file's name

#: variables of `.env` with the addresses for browsers, each set by an option of `stack init` -> the variable of the
#: server's port on this machine, and that port's default
URLS: Final[Mapping[str, tuple[str, int] | None]] = {
    "GRAFANA_URL": ("GRAFANA_PORT", 3000),
    "JAEGER_URL": ("JAEGER_PORT", 16686),
    "PROMETHEUS_URL": ("PROMETHEUS_PORT", 9090),
    "ALERTMANAGER_URL": ("ALERTMANAGER_PORT", 9093),
    "RUNBOOKS_URL": None,
}

_PACKAGED: Final = Path(__file__).parents[2] / "_stack"
_CHECKOUT: Final = Path(__file__).parents[3]
#: the files of a checkout that belong to the stack; pyproject.toml lists the same for the wheel
_TOP: Final = (COMPOSE, "compose.*.yml", ENVIRONMENT_EXAMPLE, "deploy/**/*", "grafana/**/*")
#: the demo shop is built from a checkout
_DEMO: Final = ("compose.demo.yml", "deploy/demo/", "deploy/prometheus/targets/demo.yml")
_RULES: Final = "deploy/prometheus/rules/"
_KUBERNETES_RULES: Final = "deploy/kubernetes/monitoring/rules/"
#: what the manifests are made of
_OF_KUBERNETES: Final = (
    "deploy/kubernetes/",
    "deploy/collector/",
    "deploy/jaeger/",
    "deploy/alertmanager/templates/",
    "grafana/dashboards/",
    "grafana/kustomization.yml",
)
#: where the runbooks can be read without this stack
_RUNBOOKS: Final = "https://github.com/otel-fastperf/otel-fastperf/blob/main/deploy/runbooks"
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
    #: Compose's name of the stack, under which its containers and volumes are found again
    project: str = PROJECT
    #: the files are for `kubectl apply`, not for `docker compose`
    kubernetes: bool = False


def project_of(folder: Path) -> str:
    """Compose's name for a stack that is new in a folder: another one for each folder, the same each time.

    The folder's name alone would be Compose's own default. It is the same for `/srv/shop/telemetry` and
    `/srv/store/telemetry`, and then the second stack takes over containers and volumes of the first.
    """
    path = folder.resolve()
    readable = re.sub(r"[^a-z0-9_-]+", "-", path.name.lower()).strip("-_")[:40] or "stack"
    return f"{readable}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def source() -> Path:
    """The folder of the shipped files: in the wheel, or the checkout.

    Raises:
        StackError: Neither exists.
    """
    if (_PACKAGED / COMPOSE).is_file():
        return _PACKAGED
    if (_CHECKOUT / COMPOSE).is_file() and (_CHECKOUT / "pyproject.toml").is_file():
        return _CHECKOUT
    message = f"This installation does not contain the stack's files ({_PACKAGED}). Remedy: reinstall otel-fastperf."
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
    """The files for an app: targets and objectives are generated, names and addresses filled in, others as shipped.

    Raises:
        StackError: A file does not contain what is to be replaced.
    """
    return _for_kubernetes(files, answers) if answers.kubernetes else _for_compose(files, answers)


def _for_compose(files: Mapping[str, bytes], answers: Answers) -> dict[str, bytes]:
    made = {name: content for name, content in files.items() if not _is_for_kubernetes(name)}
    made[TARGETS] = targets(answers.service, answers.targets).encode()
    if COMPOSE in made:
        made[COMPOSE] = _compose(made[COMPOSE].decode(), answers.project).encode()
    made[SLO_TARGETS] = _slo_targets(answers)
    if JAEGER_UI in made:
        made[JAEGER_UI] = _with_addresses(JAEGER_UI, made[JAEGER_UI], answers)
    made["secrets/.gitignore"] = b"# Secrets stay out of version control.\n*\n!.gitignore\n"
    if ENVIRONMENT_EXAMPLE in files:
        made[ENVIRONMENT] = _environment(files[ENVIRONMENT_EXAMPLE].decode(), answers).encode()
    return dict(sorted(made.items()))


def _for_kubernetes(files: Mapping[str, bytes], answers: Answers) -> dict[str, bytes]:
    """The manifests and what they are made of. Rules are there as objects only: nothing has to be changed twice."""
    made = {name: content for name, content in files.items() if name.startswith(_OF_KUBERNETES)}
    made |= prometheus_rules({**files, SLO_TARGETS: _slo_targets(answers)})
    for path in (JAEGER_UI, KUBE_PROMETHEUS):
        if path in made:
            made[path] = _with_addresses(path, made[path], answers)
    return dict(sorted(made.items()))


def prometheus_rules(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The rule files as objects for Prometheus' operator: `{"deploy/kubernetes/monitoring/rules/alerts.yaml": …}`."""
    made = {}
    for path, rules in files.items():
        if path.startswith(_RULES):
            name = path.removeprefix(_RULES).removesuffix(".yml")
            made[f"{_KUBERNETES_RULES}{name}.yaml"] = prometheus_rule(path, rules.decode()).encode()
    return made


def _is_for_kubernetes(name: str) -> bool:
    return name.startswith("deploy/kubernetes/") or name.endswith("/kustomization.yml")


def _slo_targets(answers: Answers) -> bytes:
    return slo_targets(answers.availability, answers.latency, answers.latency_threshold).encode()


def address(name: str, variables: Mapping[str, str]) -> str:
    """The value of a variable of `URLS` as Compose resolves it; "" if it is unset and has no default."""
    port = URLS[name]
    default = f"http://localhost:{variables.get(port[0]) or port[1]}" if port else ""
    return variables.get(name) or default


def _environment(text: str, answers: Answers) -> str:
    lines = text.splitlines()
    for name, url in answers.urls.items():
        places = [number for number, line in enumerate(lines) if re.match(rf"#? ?{name}=", line)]
        lines[slice(places[0], places[0] + 1) if places else slice(len(lines), None)] = [f"{name}={url}"]
    return "\n".join(lines) + "\n"


def _compose(text: str, project: str) -> str:
    """In the file and not in `.env`, so that no way to call Compose misses it."""
    made, count = re.subn(rf"(?m)^name: {PROJECT}$", f"name: {project}", text)
    if count != 1:
        raise _no_place(COMPOSE, f"name: {PROJECT}")
    return made.replace(f"{PROJECT}_default", f"{project}_default")


def _with_addresses(path: str, content: bytes, answers: Answers) -> bytes:
    """Replace the default addresses in a file whose reader expands no variables."""
    text = content.decode()
    if address("GRAFANA_URL", {}) not in text:
        raise _no_place(path, address("GRAFANA_URL", {}))
    new = {address(name, {}) or _RUNBOOKS: url for name, url in answers.urls.items()}
    if not new:
        return content
    old = "|".join(re.escape(url) for url in new)
    return re.sub(rf"(?:{old})(?![\w.-])", lambda found: new[found.group()], text).encode()


def _no_place(path: str, place: str) -> StackError:
    message = f"{path} does not contain {place} to replace. Remedy: this is a bug in otel-fastperf; please report it."
    return StackError(message)


# What was written before


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The record of the last `stack init`."""

    version: str
    answers: Answers
    #: path -> hash of the content that was written, or written beside a file that the user had changed
    files: Mapping[str, str]

    def to_json(self) -> str:
        """The manifest as JSON."""
        note = "Written by `otel-fastperf stack init`: it distinguishes the files that you changed from those it wrote."
        fields = {"note": note, "schema": _SCHEMA, **asdict(self)}
        return json.dumps(fields, indent=2) + "\n"


def compare(folder: Path, path: str) -> str:
    """The command, for a shell in the current directory, that compares a file with the version offered next to it."""
    file = folder / path
    return f"diff -u {shlex.quote(str(file))} {shlex.quote(str(beside(file, 'new')))}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if the folder has none.

    Raises:
        StackError: It is damaged, or was written by a newer version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        message = f"DIR={folder}: must be a folder, but is a file. Remedy: choose another name."
        raise StackError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}. Remedy: move it away; files that differ then count as yours."
        raise StackError(message) from None
    try:
        return _manifest(json.loads(text))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        message = f"{path} is not a valid manifest. Remedy: move it away; files that differ then count as yours."
        raise StackError(message) from None


def _manifest(fields: dict[str, Any]) -> Manifest:
    if int(fields["schema"]) > _SCHEMA:
        message = (
            f"{MANIFEST}: schema={fields['schema']} was written by otel-fastperf {fields['version']}; this version"
            f" reads schemas up to {_SCHEMA}. Remedy: upgrade otel-fastperf."
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
            project=str(given.get("project", PROJECT)),
            # manifests of versions that knew only Compose do not have it
            kubernetes=bool(given.get("kubernetes", False)),
        ),
        files=files,
    )


def _is_inside(path: str) -> bool:
    """Whether a path stays in the folder: a manipulated manifest must not delete files elsewhere."""
    parts = PurePosixPath(path)
    return bool(path) and not parts.is_absolute() and ".." not in parts.parts and path not in {".", MANIFEST, SECRET}


def hash_of(content: bytes) -> str:
    """The hash of a file's content: `sha256:…`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# What is to be done


class Action(StrEnum):
    """What `stack init` does with a file."""

    CREATE = "create"
    #: unchanged since we wrote it, and there is a new version
    UPDATE = "update"
    SAME = "same"
    #: changed or removed by the user, and there is no new version
    KEEP = "keep"
    #: changed or removed by the user, and there is a new version, which is written beside it
    OFFER = "offer"
    #: changed by the user and overwritten (`--force`); the user's version is kept beside it
    REPLACE = "replace"
    #: no longer part of the stack, and unchanged
    REMOVE = "remove"
    #: no longer part of the stack, but changed by the user
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Step:
    """The action for one file."""

    path: str
    action: Action
    #: the new content; b"" for files that are no longer part of the stack
    content: bytes = b""


def plan(
    wanted: Mapping[str, bytes], there: Mapping[str, bytes], written: Mapping[str, str], *, force: bool = False
) -> tuple[Step, ...]:
    """Decide what to do with each file, sorted by name.

    Args:
        wanted: path -> content of all files of the stack.
        there: path -> content of those files of `wanted` and `written` that exist in the folder.
        written: path -> hash, from the manifest.
        force: Overwrite files that the user changed.
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
    """The contents of the files that exist; links are followed.

    Raises:
        StackError: A folder has the name of a file, or the reverse.
    """
    found = {}
    for path in paths:
        file = folder / path
        try:
            found[path] = file.read_bytes()
        except FileNotFoundError:
            continue
        except (IsADirectoryError, NotADirectoryError):
            message = f"{file} must be a file, and its parents folders. Remedy: move the conflicting entry away."
            raise StackError(message) from None
    return found


def write(folder: Path, steps: Iterable[Step]) -> None:
    """Carry out the plan. Each file is replaced atomically; the manifest is not written."""
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
    """A file name that no server of the stack reads, such as `alerts.yml.new`."""
    return file.with_name(f"{file.name}.{ending}")


def write_file(file: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically.

    The servers run as different users and read the file through a bind mount, which keeps owner and mode. Files and
    folders are therefore readable by everyone, regardless of the umask.
    """
    _make_folder(file.parent)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as output:
            output.write(content)
        Path(name).chmod(mode)
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
    """Create Grafana's password unless it exists; returns whether it was created.

    An existing password is never replaced: Grafana reads it at its first start and then keeps it in its database.

    Compose bind-mounts a secret file and ignores its `uid` and `mode` settings, so the mode of the file itself applies.
    Grafana runs as user 472, which does not exist on this machine: it could not read a file with mode 0600, and making
    472 its owner takes root. The file is therefore readable by everyone, but only its owner can enter its folder. On
    this machine that protects it like 0600; in the container, the file is mounted without the folder.
    """
    file = folder / SECRET
    _make_folder(file.parent)
    file.parent.chmod(0o700)
    if file.is_file() and file.read_bytes().strip():
        return False
    write_file(file, f"{secrets.token_urlsafe(24)}\n".encode(), mode=0o444)
    return True


def variables(text: str) -> dict[str, str]:
    """The variables that the `NAME=value` lines of a `.env` file set."""
    return dict(_assignments(text))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        found = re.fullmatch(r"\s*(?:export\s+)?(\w+)\s*=\s*(.*?)\s*", line)
        if found:
            value = found.group(2)
            quoted = re.fullmatch(r"""(["'])(.*)\1(?:\s+#.*)?""", value)
            yield found.group(1), quoted.group(2) if quoted else re.sub(r"(?:^|\s+)#.*", "", value)
