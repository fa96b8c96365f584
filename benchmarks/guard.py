"""Fail when telemetry costs clearly more than published: a short run of `direct`, compared with `figures`.

    python -m benchmarks.guard      (make bench-check)

The tolerance is wide, because a busy machine moves a ratio by a quarter.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks import direct, table
from benchmarks.figures import PUBLISHED, TOLERANCE
from benchmarks.table import Ratio
from benchmarks.variants import installed

#: with 0.25 s a batch: 40 s
_ROUNDS: Final = 6

#: variant -> endpoint -> ratio to `stock`
Ratios = Mapping[str, Mapping[str, Ratio]]
Figures = Mapping[str, Mapping[str, float]]


def main() -> None:
    """Measure, print a line for each figure; exit with 1 if one is over its limit twice."""
    variants = [table.BASE, table.REFERENCE, *PUBLISHED]
    if installed(variants) != variants:
        sys.exit("Remedy: install the dependency group `bench` (make)")
    failures = _failures(variants)
    if failures:
        print("\nOver a limit. Once more, because a disturbance passes and a regression does not:", flush=True)
        failures = _failures(variants)
    if failures:
        sys.exit("\n".join(("", *failures)))


def _failures(variants: list[str]) -> list[str]:
    measured = _measure(variants)
    print("\n".join(_lines(measured, PUBLISHED)), flush=True)
    return list(over_limit(measured, PUBLISHED))


def over_limit(measured: Ratios, figures: Figures) -> Iterator[str]:
    """Yield a message for each ratio that is over its limit."""
    for variant, endpoints in figures.items():
        for endpoint, figure in endpoints.items():
            ratio = measured[variant][endpoint]
            if ratio.value > TOLERANCE * figure:
                limit = f"{TOLERANCE * figure:.3f}, {TOLERANCE} times the published {figure:.3f}"
                yield (
                    f"{variant}, {direct.column(endpoint)}: it adds {ratio} of what {table.REFERENCE} adds; the limit"
                    f" is {limit}. Remedy: run `python -m benchmarks.direct --path {endpoint}` before and after the"
                    " change; if the cost is intended, change benchmarks/figures.py and the README."
                )


def _measure(variants: list[str]) -> Ratios:
    paths = list(dict.fromkeys(endpoint for endpoints in PUBLISHED.values() for endpoint in endpoints))
    rounds = direct.run(variants, paths, _ROUNDS)
    ratios = {path: table.ratios(direct.of_clock(rounds[path], "process")) for path in paths}
    unknown = [path for path in paths if not ratios[path]]
    if unknown:
        sys.exit(f"{table.REFERENCE} never cost more than {table.BASE} on {', '.join(unknown)}. Remedy: run it again")
    return {variant: {path: ratios[path][variant] for path in paths} for variant in PUBLISHED}


def _lines(measured: Ratios, figures: Figures) -> Iterator[str]:
    rows = [
        (f"{variant}, {direct.column(endpoint)}", str(measured[variant][endpoint]), f"{TOLERANCE * figure:.3f}")
        for variant, endpoints in figures.items()
        for endpoint, figure in endpoints.items()
    ]
    yield from table.lines((f"ratio to {table.REFERENCE}", "measured", "limit"), rows)


if __name__ == "__main__":
    main()
