"""`otel-fastperf stack init`, `upgrade`, `check` and `smoke`: the stack as files in a folder."""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from otel_fastperf.cli.output import print_checks
from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.cli.stack.checks import Stack, check_stack
from otel_fastperf.cli.stack.containers import containers
from otel_fastperf.cli.stack.files import (
    ENVIRONMENT,
    MANIFEST,
    SECRET,
    URLS,
    Action,
    Answers,
    Manifest,
    Step,
    address,
    compare,
    ensure_secret,
    filled,
    hash_of,
    plan,
    present,
    project_of,
    read_manifest,
    shipped,
    source,
    variables,
    write,
    write_file,
)
from otel_fastperf.cli.stack.options import Given, answers, notes
from otel_fastperf.cli.stack.smoke import add_options, run
from otel_fastperf.cli.stack.upgrade import changing, shown
from otel_fastperf.cli.stack.validators import check_tools
from otel_fastperf.cli.stack.yaml_files import require_yaml
from otel_fastperf.errors import StackError
from otel_fastperf.internals.versions import installed_version

_OK: Final = 0
_FOUND: Final = 1

_SAID: Final = {
    Action.UPDATE: "updated",
    Action.REMOVE: "removed",
    Action.REPLACE: "replaced",
    Action.KEEP: "kept",
    Action.OFFER: "kept",
    Action.LEAVE: "kept",
}
_WHY: Final = {
    Action.REMOVE: "no longer part of the stack",
    Action.REPLACE: "your version is in {path}.old",
    Action.KEEP: "changed or removed by you; no new version",
    Action.OFFER: "changed or removed by you; see: {compare}",
    Action.LEAVE: "no longer part of the stack, but changed by you",
}


def add_stack(commands: Any, epilog: str) -> None:
    """Add the command to the subparsers `commands`."""
    what = "Prometheus, Alertmanager, Grafana, Jaeger and a collector for your app, for docker compose or Kubernetes."
    stack = commands.add_parser("stack", help=what, description=what)
    below = stack.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        form = argparse.RawDescriptionHelpFormatter
        added: argparse.ArgumentParser = below.add_parser(
            name, help=what, description=what, epilog=epilog, formatter_class=form
        )
        added.set_defaults(run=does)
        return added

    init = command("init", _init, "Write the stack, or update it. Files that you changed are kept.")
    usual = Answers()
    init.add_argument("directory", type=Path, metavar="DIR", help="the stack's folder")
    init.add_argument(
        "--target", action="extend", nargs="+", default=[], metavar="HOST:PORT",
        help=f"address of the app's /metrics (default: {' '.join(usual.targets)}, port 8000 of this machine)",
    )  # fmt: skip
    init.add_argument("--service", metavar="NAME", help=f"the app's OTEL_SERVICE_NAME (default: {usual.service})")
    init.add_argument(
        "--availability",
        metavar="PERCENT",
        help=f"SLO: share of requests that must succeed (default: {usual.availability})",
    )
    init.add_argument(
        "--latency", metavar="PERCENT", help=f"SLO: share of requests within the threshold (default: {usual.latency})"
    )
    init.add_argument(
        "--latency-threshold",
        metavar="SECONDS",
        help=f"SLO: a bucket bound (default: {usual.latency_threshold})",
    )
    for name in URLS:
        option = f"--{name.lower().replace('_', '-')}"
        init.add_argument(option, metavar="URL", help=f"address for browsers; sets {name} in {ENVIRONMENT}")
    init.add_argument(
        "--project", metavar="NAME",
        help="Compose's name of the stack's containers and volumes (default: from the folder, unique on this machine)",
    )  # fmt: skip
    what = "write manifests for Kubernetes (kustomize, Helm values) instead of files for docker compose"
    init.add_argument("--kubernetes", action="store_true", help=what)
    init.add_argument("--force", action="store_true", help="overwrite your changes; your version is kept as FILE.old")

    upgrade = command(
        "upgrade", _upgrade, "Show what the installed version changes in the stack, and do it if you agree."
    )
    upgrade.add_argument("directory", type=Path, metavar="DIR", help="the stack's folder")
    upgrade.add_argument("--yes", action="store_true", help="do it without asking")
    upgrade.add_argument("--all", action="store_true", help="show all lines of long differences")

    check = command("check", _check, "Check the stack's files, also with the installed programs that read them.")
    check.add_argument("directory", type=Path, metavar="DIR", help="the stack's folder")
    check.add_argument("--format", choices=("text", "json"), default="text")

    add_options(command("smoke", run, "Check the running stack: send a trace, find it in Jaeger, query the rest."))


def _given(options: argparse.Namespace) -> Given:
    urls = {name: getattr(options, name.lower()) for name in URLS}
    return Given(
        service=options.service,
        targets=options.target,
        availability=options.availability,
        latency=options.latency,
        latency_threshold=options.latency_threshold,
        urls={name: url for name, url in urls.items() if url is not None},
        project=options.project,
        kubernetes=options.kubernetes,
    )


def _init(options: argparse.Namespace) -> int:
    folder: Path = options.directory
    origin, given = source(), _given(options)
    if folder.resolve() == origin.resolve():
        message = f"DIR={folder}: must not be the folder that the stack comes from. Remedy: choose another folder."
        raise StackError(message)
    before = read_manifest(folder)
    if before and given.kubernetes and not before.answers.kubernetes:
        message = f"DIR={folder}: must not contain a stack for docker compose. Remedy: choose another folder."
        raise StackError(message)
    made = answers(given, before.answers if before else _first(folder, os.environ))
    wanted = filled(shipped(origin), made)
    written = before.files if before else {}
    steps = plan(wanted, present(folder, {*wanted, *written}), written, force=options.force)
    write(folder, steps)
    new_secret = not made.kubernetes and ensure_secret(folder)
    _record(folder, made, wanted)
    sys.stdout.write("".join(f"{line}\n" for line in _report(folder, steps, made, given, new_secret=new_secret)))
    return _FOUND if any(step.action is Action.OFFER for step in steps) else _OK


def _record(folder: Path, made: Answers, wanted: Mapping[str, bytes]) -> None:
    hashes = {path: hash_of(content) for path, content in wanted.items()}
    manifest = Manifest(version=installed_version("otel-fastperf"), answers=made, files=hashes)
    write_file(folder / MANIFEST, manifest.to_json().encode())


def _upgrade(options: argparse.Namespace) -> int:
    folder: Path = options.directory
    before = _manifest(folder)
    wanted = filled(shipped(source()), before.answers)
    there = present(folder, {*wanted, *before.files})
    steps = plan(wanted, there, before.files)
    installed = installed_version("otel-fastperf")
    if not changing(steps):
        _record(folder, before.answers, wanted)
        sys.stdout.write(f"The stack in {folder} is up to date: otel-fastperf {installed}.\n")
        return _OK
    sys.stdout.write(f"The stack in {folder}: otel-fastperf {before.version} -> {installed}\n")
    sys.stdout.writelines(f"{line}\n" for line in shown(steps, there, whole=options.all))
    if not options.yes and not _agrees():
        quoted = shlex.quote(str(folder))
        sys.stdout.write(f"\nNothing was written. To do it: otel-fastperf stack upgrade {quoted} --yes\n")
        return _FOUND
    write(folder, steps)
    _record(folder, before.answers, wanted)
    following = "\n".join(f"  {line}" for line in _after_upgrade(folder, before.answers))
    sys.stdout.write(f"\nDone. Next:\n{following}\n")
    return _FOUND if any(step.action is Action.OFFER for step in steps) else _OK


def _agrees() -> bool:
    """Ask, if somebody is there to answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    sys.stdout.write("\nWrite this? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _after_upgrade(folder: Path, made: Answers) -> Iterable[str]:
    there = shlex.quote(str(folder))
    yield f"otel-fastperf stack check {there}"
    if made.kubernetes:
        yield f"kubectl diff --kustomize {there}/deploy/kubernetes/base"
        return
    yield f"docker compose --project-directory {there} pull"
    # servers read their files when they start, and Compose restarts only those whose own definition changed
    yield f"docker compose --project-directory {there} up --detach --wait --force-recreate"


def _first(folder: Path, environ: Mapping[str, str]) -> Answers:
    """The answers before the first `init`: the environment may already name the service."""
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    return answers(Given(service=name or None, project=project_of(folder)), Answers())


def _report(folder: Path, steps: Sequence[Step], made: Answers, given: Given, *, new_secret: bool) -> Iterator[str]:
    of = "for Kubernetes" if made.kubernetes else f"for {made.service} ({', '.join(made.targets)})"
    yield f"The stack {of} is in {folder}:"
    yield from _done(folder, steps)
    if new_secret:
        yield f"  created   {SECRET}: the password of Grafana's admin"
    for note in notes(made, given):
        yield f"  note      {note}"
    yield ""
    yield "Next:"
    following = _next_in_kubernetes(folder) if made.kubernetes else _next(folder, made)
    yield from (f"  {line}" for line in following)


def _done(folder: Path, steps: Sequence[Step]) -> Iterator[str]:
    created = Counter(step.path.partition("/")[0] for step in steps if step.action is Action.CREATE)
    if created:
        names = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in created.items())
        yield f"  written   {_files(created.total())}: {names}"
    same = sum(step.action is Action.SAME for step in steps)
    if same:
        yield f"  same      {_files(same)}"
    for step in steps:
        if step.action in _SAID:
            why = _WHY.get(step.action, "").format(path=step.path, compare=compare(folder, step.path))
            yield f"  {_SAID[step.action]:<9} {step.path}{f'  ({why})' if why else ''}"


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _next(folder: Path, made: Answers) -> Iterable[str]:
    there, found = (
        shlex.quote(str(folder)),
        variables((folder / ENVIRONMENT).read_text(encoding="utf-8", errors="replace")),
    )
    port = made.targets[0].rpartition(":")[2]
    collector = f"http://localhost:{found.get('COLLECTOR_HTTP_PORT') or 4318}"
    environment = f"OTEL_SERVICE_NAME={shlex.quote(made.service)} OTEL_EXPORTER_OTLP_ENDPOINT={collector}"
    return (
        f"otel-fastperf stack check {there}",
        f"docker compose --project-directory {there} up --detach --wait",
        f"{environment} uvicorn --host 0.0.0.0 --port {port} MODULE:APP",
        "",
        f"Then open {address('GRAFANA_URL', found)} and log in as admin with the password in {folder / SECRET}",
    )


def _next_in_kubernetes(folder: Path) -> Iterable[str]:
    there = shlex.quote(str(folder))
    return (
        f"otel-fastperf stack check {there}",
        f"kubectl apply --kustomize {there}/deploy/kubernetes/base",
        "",
        f"Then read {folder / 'deploy/kubernetes/README.md'}: apps, metrics and alerts, production",
    )


def _manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        there = shlex.quote(str(folder))
        message = f"DIR={folder}: must contain {MANIFEST}, but does not. Remedy: otel-fastperf stack init {there}"
        raise StackError(message)
    return manifest


def _check(options: argparse.Namespace) -> int:
    require_yaml()
    folder: Path = options.directory
    manifest = _manifest(folder)
    wanted = filled(shipped(source()), manifest.answers)
    stack = Stack(
        folder=folder, manifest=manifest, wanted=wanted, version=installed_version("otel-fastperf"), environ=os.environ,
        containers=containers(os.environ),
    )  # fmt: skip
    environ = {**variables(stack.text(ENVIRONMENT)), **os.environ}
    of_tools = check_tools(folder, wanted, environ, kubernetes=manifest.answers.kubernetes)
    checks: list[Check] = [*check_stack(stack), *of_tools]
    print_checks(checks, options.format)
    return _FOUND if any(check.level is Level.BAD for check in checks) else _OK
