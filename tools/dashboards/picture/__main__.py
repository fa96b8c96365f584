"""Draw the dashboards: `python -m tools.dashboards.picture --prometheus URL --out docs/dashboards`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

from tools.dashboards.__main__ import FOLDER
from tools.dashboards.picture.page import picture
from tools.dashboards.picture.prometheus import Prometheus, Window


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one SVG for each dashboard; 1 where Prometheus does not answer, or refuses a query."""
    options = _options(arguments)
    try:
        _draw(options)
    except (URLError, ValueError) as error:
        print(f"Prometheus at {options.prometheus} does not answer: {error}", file=sys.stderr)
        return 1
    return 0


def _draw(options: argparse.Namespace) -> None:
    end = options.end or time.time()
    prometheus = Prometheus(options.prometheus)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(FOLDER.glob("*.json")):
        board = json.loads(path.read_text())
        chosen = {"job": options.job, "instance": ".+", "route": options.route if path.stem == "route" else ".+"}
        window = Window(end - options.minutes * 60, end, chosen)
        variables = {one["name"]: one["label"] for one in board["templating"]["list"] if one["name"] in chosen}
        shown = "    ".join(
            f"{label}: {'All' if chosen[name] == '.+' else chosen[name]}" for name, label in variables.items()
        )
        (options.out / f"{path.stem}.svg").write_text(picture(board, prometheus, window, shown=shown))
        print(f"{options.out / path.stem}.svg")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.dashboards.picture", description=__doc__)
    parser.add_argument(
        "--prometheus", required=True, metavar="URL", help="a Prometheus that scrapes instrumented apps"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=30.0, help="the time range up to its end (30)")
    parser.add_argument("--end", type=float, help="Unix seconds of the end of the time range (now)")
    parser.add_argument("--job", default=".+", help="services, as a regular expression (all)")
    parser.add_argument(
        "--route", default=".+", help="routes of the dashboard of a route, as a regular expression (all)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
