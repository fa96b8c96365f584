"""Print the results of checks, as lines or as JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from typing import TextIO

from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.report.formatting import Paint


def print_checks(checks: Sequence[Check], form: str) -> None:
    """Write to standard output; `form` is `text` or `json`."""
    if form == "json":
        sys.stdout.write(json.dumps([asdict(check) for check in checks], indent=2) + "\n")
    else:
        sys.stdout.write("".join(_lines(checks, Paint(colour=is_coloured(sys.stdout, os.environ)))))


def print_any_text() -> None:
    """Have standard output and error replace characters that they cannot encode, such as those of bars on Windows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def is_coloured(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is a terminal whose user wants colour (https://no-color.org/)."""
    return stream.isatty() and not environ.get("NO_COLOR")


def _lines(checks: Sequence[Check], paint: Paint) -> Iterable[str]:
    for check in checks:
        what = check.what.replace("\n", "\n      ")
        yield f"{_colour(check.level, paint)(f'{check.level:<4}')}  {check.name}: {what}\n"
        if check.remedy:
            yield f"      Remedy: {check.remedy}\n"


def _colour(level: Level, paint: Paint) -> Callable[[str], str]:
    match level:
        case Level.OK:
            return paint.green
        case Level.INFO:
            return paint.cyan
        case Level.WARN:
            return paint.yellow
        case Level.BAD:
            return paint.red
