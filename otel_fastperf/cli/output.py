"""How the command prints what it has checked: lines, or JSON."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Final, TextIO

from otel_fastperf.cli.setup_checks import Check, Level

_COLOURS: Final = {Level.OK: "32", Level.INFO: "36", Level.WARN: "33", Level.BAD: "31"}


def print_checks(checks: Sequence[Check], form: str) -> None:
    """To standard output, as `text` or `json`."""
    if form == "json":
        sys.stdout.write(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
    else:
        sys.stdout.write("".join(_lines(checks, coloured=is_coloured(sys.stdout, os.environ))))


def is_coloured(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether it is a terminal whose user wants colour."""
    # https://no-color.org/
    return stream.isatty() and not environ.get("NO_COLOR")


def _lines(checks: Sequence[Check], *, coloured: bool) -> Iterable[str]:
    for check in checks:
        level = f"{check.level:<4}"
        what = check.what.replace("\n", "\n      ")
        if coloured:
            level = f"\x1b[{_COLOURS[check.level]}m{level}\x1b[0m"
        yield f"{level}  {check.name}: {what}\n"
        if check.fix:
            yield f"      fix: {check.fix}\n"
