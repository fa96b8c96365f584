"""Write the dashboards: `python -m tools.dashboards` (`make dashboards`); `--check` only compares."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.dashboards import database, findings, fleet, overview, route, runtime, telemetry
from tools.dashboards.layout import Board

FOLDER: Final = Path(__file__).parent.parent.parent / "grafana" / "dashboards"
BOARDS: Final[tuple[Board, ...]] = (
    overview.BOARD,
    fleet.BOARD,
    route.BOARD,
    database.BOARD,
    runtime.BOARD,
    findings.BOARD,
    telemetry.BOARD,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files that differ; with `--check`, print their names and return 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    options = parser.parse_args(arguments)
    wanted = {board.file_name: board.as_json() for board in BOARDS}
    stale = [name for name, text in wanted.items() if _text(FOLDER / name) != text]
    left_over = [path for path in sorted(FOLDER.glob("*.json")) if path.name not in wanted]
    if options.check:
        for name in (*stale, *(path.name for path in left_over)):
            print(f"grafana/dashboards/{name} is not up to date. Remedy: run `make dashboards`.", file=sys.stderr)
        return int(bool(stale or left_over))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(wanted[name])
    for path in left_over:
        path.unlink()
    print(f"grafana/dashboards: {len(stale)} of {len(wanted)} written, {len(left_over)} removed")
    return 0


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
