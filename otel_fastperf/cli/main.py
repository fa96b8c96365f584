"""The command `otel-fastperf`: `run`, `doctor`, `allocations`, `check`, `stack`."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

from otel_fastperf.cli.debug_client import DEFAULT_URL, Service
from otel_fastperf.cli.output import is_coloured, print_any_text, print_checks
from otel_fastperf.cli.setup_checks import Level, run_checks
from otel_fastperf.cli.stack.command import add_stack
from otel_fastperf.errors import AskingError, FastPerfError, ReportError, RunError
from otel_fastperf.findings import Severity
from otel_fastperf.internals.text_safety import printable
from otel_fastperf.memory.allocations import LONGEST, SHORTEST
from otel_fastperf.report.formats import FORMATS, report_as
from otel_fastperf.report.model import Report
from otel_fastperf.settings import DEBUG_PATH

OK: Final = 0
FOUND: Final = 1
ERROR: Final = 2

_TOKEN: Final = "OTEL_FASTPERF_DEBUG_TOKEN"  # noqa: S105 - the variable's name

#: `http://…`, `shop:8000`, `:8000`, `[::1]:8000/path`, `localhost`: everything else is a file
_ADDRESS: Final = re.compile(r"\w+://.*|(?:[\w.-]*|\[[0-9a-fA-F:.]+\]):[0-9]+(?:/.*)?|localhost(?:/.*)?")

_EXIT_CODES: Final = """\
exit codes:
  run          those of the command; 2 if it cannot be run, or if settings are wrong
  doctor       0  no finding at or above the level of --fail-on
               1  there are such findings
               2  no report: the service cannot be reached, denies access, or sends something else
  allocations  0  traced
               2  not traced, for the same reasons
  check        0  all is well, or only warnings
               1  something is bad
               2  no check: the app cannot be imported
  stack init   0  written
               1  written, but files that you changed differ from the stack's: merge FILE.new
               2  not written completely; nothing was written if a value is wrong
  stack upgrade
               0  there was nothing to change, or it was written
               1  not written, because nobody agreed; or written, but merge FILE.new
               2  not written completely, or the folder contains no stack
  stack check  0  all is well, or only warnings
               1  something is bad
               2  no check: the folder contains no stack
  stack smoke  0  all steps succeeded
               1  a step failed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    print_any_text()
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (FastPerfError, OSError) as error:
        sys.stderr.write(f"otel-fastperf: {error}\n")
        return ERROR
    except KeyboardInterrupt:
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="otel-fastperf",
        description="Find out why a FastAPI service is slow, and check its set-up.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=what,
            description=what,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(run=run)
        return added

    run = command("run", _run, "Run a server, and observe its apps without a change of their code.")
    run.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND …", help="for example: uvicorn shop:app --workers 4"
    )

    doctor = command(
        "doctor", _doctor, "Show what makes a service slow, from the running service or from a saved report."
    )
    doctor.add_argument(
        "target", nargs="?", metavar="URL|FILE", help=f"the service (default: {DEFAULT_URL}), or a report in JSON"
    )
    _add_service_options(doctor)
    doctor.add_argument("--format", choices=FORMATS, help="default: by the ending of -o, otherwise text")
    doctor.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the report to this file")
    doctor.add_argument(
        "--fail-on",
        choices=(*Severity, "never"),
        default=Severity.WARNING,
        help="lowest severity that causes exit code 1 (default: warning)",
    )

    allocations = command(
        "allocations", _allocations, "Show which lines of a running service allocate memory that stays."
    )
    allocations.add_argument("target", nargs="?", metavar="URL", help=f"the service (default: {DEFAULT_URL})")
    _add_service_options(allocations)
    allocations.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        metavar="N",
        help=f"{SHORTEST:g} to {LONGEST:g} (default: 10); the service is slower meanwhile",
    )

    check = command("check", _check, "Check the set-up. Run this where the service runs, with its environment.")
    check.add_argument("target", nargs="?", metavar="MODULE:APP", help="the app, as for uvicorn; it is imported")
    check.add_argument("--factory", action="store_true", help="MODULE:APP is a function that makes the app")
    check.add_argument("--format", choices=("text", "json"), default="text")

    add_stack(commands, _EXIT_CODES)
    return parser


def _add_service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--path", default=DEBUG_PATH, help=f"path of the debug route if the URL has none (default: {DEBUG_PATH})"
    )
    parser.add_argument("--token", help=f"bearer token of the debug route (safer: the variable {_TOKEN})")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not SHORTEST <= seconds <= LONGEST:
        message = f"must be {SHORTEST:g} to {LONGEST:g} seconds"
        raise argparse.ArgumentTypeError(message)
    return seconds


def _service(options: argparse.Namespace) -> Service:
    token = options.token or os.environ.get(_TOKEN, "").strip() or None
    return Service.at(options.target or DEFAULT_URL, path="/" + options.path.lstrip("/"), token=token)


def _run(options: argparse.Namespace) -> int:
    from otel_fastperf.cli.run import run

    # what precedes the command's own arguments, as for `env` and `nohup`
    command = options.command[options.command[:1] == ["--"] :]
    if not command:
        message = "run needs a command. Remedy: pass what starts the service, for example uvicorn shop:app."
        raise RunError(message)
    run(command)


def _doctor(options: argparse.Namespace) -> int:
    report = _report(options)
    output: Path | None = options.output
    form = options.format or _form_of(output)
    coloured = output is None and is_coloured(sys.stdout, os.environ)
    text = report_as(report, form, colour=coloured)
    if output is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    else:
        output.write_text(text, encoding="utf-8")
        sys.stderr.write(f"otel-fastperf: wrote {output}\n")
    return _exit_code(report, options.fail_on)


def _report(options: argparse.Namespace) -> Report:
    target: str | None = options.target
    if target is None or (_ADDRESS.fullmatch(target) and not Path(target).is_file()):
        service = _service(options)
        return _read(service.report(), service.url)
    if not Path(target).is_file():
        message = f"{target} is not a file. Remedy: pass a report saved with --format json, or http://HOST:PORT."
        raise AskingError(message)
    return _read(Path(target).read_text(encoding="utf-8", errors="replace"), target)


def _read(text: str, source: str) -> Report:
    try:
        return Report.from_json(text)
    except ReportError as error:
        message = f"{source}: {error}"
        raise ReportError(message) from None


def _form_of(output: Path | None) -> str:
    suffix = output.suffix.lower() if output is not None else ""
    return {".json": "json", ".html": "html", ".htm": "html"}.get(suffix, "text")


def _exit_code(report: Report, fail_on: str) -> int:
    if fail_on == "never":
        return OK
    least = Severity(fail_on).rank
    return FOUND if any(finding.severity.rank >= least for finding in report.findings) else OK


def _allocations(options: argparse.Namespace) -> int:
    found = _service(options).allocations(options.seconds)
    sys.stdout.write("\n".join(_table(found)) + "\n")
    return OK


def _table(found: Mapping[str, Any]) -> Iterable[str]:
    yield f"{_kib(found['size'])} more after {float(found['seconds']):.1f} s, by line:"
    yield ""
    yield f"{'KiB':>10}  {'blocks':>8}  "
    for site in found["sites"]:
        where = printable(f"{site['file']}:{site['line']}")
        whose = "" if site["application"] else "  (library)"
        yield f"{site['size'] / 1024:>10,.0f}  {site['count']:>8,}  {where}{whose}"


def _kib(size: float) -> str:
    return f"{size / 1024:,.0f} KiB"


def _check(options: argparse.Namespace) -> int:
    from otel_fastperf.cli.setup_facts import gather
    from otel_fastperf.errors import AppError

    try:
        with redirect_stdout(sys.stderr):  # for what the app prints during its import
            facts = gather(options.target, factory=options.factory)
    except AppError:
        # a problem of the environment may be the reason
        bad = [check for check in run_checks(gather(None)) if check.level is Level.BAD]
        if bad:
            print_checks(bad, options.format)
        raise
    checks = run_checks(facts)
    print_checks(checks, options.format)
    return FOUND if any(check.level is Level.BAD for check in checks) else OK
