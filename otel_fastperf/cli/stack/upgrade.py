"""What an upgrade of the stack changes, before it does: images, files, and their lines."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from otel_fastperf.cli.stack.files import Action, Step
from otel_fastperf.internals.text_safety import printable

#: lines of a file's difference that are shown unless all are asked for
_MOST_LINES: Final = 40
_IMAGE: Final = re.compile(r"^\s+(?:- )?image: [\"']?([\w./-]+):([\w.-]+)", re.MULTILINE)
#: servers whose data a newer version reads, but an older one does not
_KEEPS_DATA: Final = ("prometheus", "grafana")
_DOES: Final = {
    Action.CREATE: "create",
    Action.UPDATE: "update",
    Action.REMOVE: "remove",
    Action.OFFER: "offer",
    Action.LEAVE: "leave",
}
_WHY: Final = {
    Action.OFFER: "changed or removed by you: yours stays, and the new version is written to {path}.new",
    Action.LEAVE: "no longer part of the stack, but changed by you: it stays",
}


def changing(steps: Sequence[Step]) -> list[Step]:
    """The steps that write or delete a file, or concern one that the stack no longer has."""
    return [step for step in steps if step.action in _DOES]


def shown(steps: Sequence[Step], there: Mapping[str, bytes], *, whole: bool) -> Iterator[str]:
    """The changes, line by line: images, then files with counts of their lines, then the lines.

    Args:
        steps: What is to be done.
        there: path -> content of the files as they are now.
        whole: Show every line of long differences, too.
    """
    yield from _images(steps, there)
    differences = {step.path: _difference(step, there.get(step.path, b"")) for step in changing(steps)}
    for step in changing(steps):
        added, removed = (sum(line[0] == sign for line in differences[step.path][2:]) for sign in "+-")
        why = _WHY.get(step.action, "").format(path=step.path)
        yield f"  {_DOES[step.action]:<9} {step.path}  (+{added} -{removed}{f'; {why}' if why else ''})"
    for step in changing(steps):
        # a new file has nothing to compare with, and the contents of one that is removed are known
        if step.action in {Action.UPDATE, Action.OFFER}:
            yield ""
            yield from _cut(differences[step.path], whole=whole)


def _images(steps: Sequence[Step], there: Mapping[str, bytes]) -> Iterator[str]:
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for step in changing(steps):
        if step.path.endswith((".yml", ".yaml")):
            before |= dict(_IMAGE.findall(_text(there.get(step.path, b""))))
            after |= dict(_IMAGE.findall(_text(step.content)))
    for image in sorted(before.keys() | after.keys()):
        old, new = before.get(image), after.get(image)
        if old != new:
            yield f"  image     {image}  {old or 'new'} -> {new or 'none'}"
    changed = [name for name in _KEEPS_DATA for image in before
               if image.endswith(f"/{name}") and before[image] != after.get(image)]  # fmt: skip
    if changed:
        volumes = " and ".join(changed)
        yield f"  note      Back up the volumes of {volumes} first: an older version cannot read newer data."


def _difference(step: Step, before: bytes) -> list[str]:
    """A unified difference; the first two lines name the file."""
    name = f"{step.path}.new" if step.action is Action.OFFER else step.path
    lines = difflib.unified_diff(
        _text(before).splitlines(), _text(step.content).splitlines(), step.path, name, lineterm=""
    )
    return [printable(line) for line in lines]


def _cut(lines: Sequence[str], *, whole: bool) -> Iterator[str]:
    most = len(lines) if whole else _MOST_LINES
    yield from lines[:most]
    if len(lines) > most:
        yield f"… {len(lines) - most} more lines; --all shows them"


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
