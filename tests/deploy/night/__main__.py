"""Runs the drill with the clock of the shipped rules, which takes about an hour, and prints its table.

    python -m tests.deploy.night              print the table
    python -m tests.deploy.night --write      also put it into deploy/README.md

Needs the servers that `make test-stack` builds. As root it also fills a disk, which it mounts for that.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tests.deploy.night.clock import Clock
from tests.deploy.night.drill import run, wait_for_ends
from tests.deploy.night.stack import running_stack
from tests.deploy.night.table import table
from tests.deploy.servers import DEPLOY

README: Final = DEPLOY / "README.md"
BEGIN: Final = "<!-- drill: written by `python -m tests.deploy.night --write` -->"
END: Final = "<!-- end of drill -->"

#: seconds to wait for an alert, and for all of them to end
PATIENCE: Final = 900.0
ENDING: Final = 3600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; returns 1 if an alert did not come, or did not end."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.night", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into deploy/README.md")
    parser.add_argument(
        "--faster", type=float, default=1.0, help="factor by which the clock of the rules is faster (1)"
    )
    parser.add_argument("--ending", type=float, default=ENDING, help="seconds to wait for the alerts to end (3600)")
    parser.add_argument("--note", default="", help="a remark for the line with the date")
    options = parser.parse_args(arguments)
    clock = Clock(options.faster)
    with (
        tempfile.TemporaryDirectory(prefix="fastperf-night-", ignore_cleanup_errors=True) as folder,
        running_stack(Path(folder), clock) as stack,
    ):
        sys.stderr.write("The stack is up, and the night begins.\n")
        outcomes = run(stack, patience=max(60.0, clock.seconds(PATIENCE)))
        left = wait_for_ends(stack, outcomes, options.ending)
        today = datetime.now(UTC).date()
        told = table(stack, outcomes)
        text = (
            f"Run on {today} with version {version('otel-fastperf')}{options.note and f', {options.note}'}.\n\n{told}"
        )
    sys.stdout.write(f"{text}\n")
    if options.write:
        README.write_text(with_table(README.read_text(), text))
    return int(bool(left) or any(told is None for outcome in outcomes for told in outcome.told))


def with_table(page: str, text: str) -> str:
    """The page with this text between its markers."""
    between = re.compile(rf"({re.escape(BEGIN)}\n).*?(\n{re.escape(END)})", re.DOTALL)
    return between.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)


if __name__ == "__main__":
    sys.exit(main())
