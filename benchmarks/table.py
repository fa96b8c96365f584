"""The cost that a variant adds to the bare app, and its ratio to the cost that the reference adds."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

BASE: Final = "bare"
#: its addition counts as 1.00
REFERENCE: Final = "stock"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median over rounds, and how far a round is from it: the median absolute deviation."""

    value: float
    spread: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratio":
        """Of the rounds' ratios."""
        value = statistics.median(ratios)
        return cls(value, statistics.median(abs(ratio - value) for ratio in ratios))

    def __str__(self) -> str:
        return f"{self.value:.3f} ±{self.spread:.3f}"


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def ratios(rounds: Sequence[Mapping[str, float]]) -> dict[str, Ratio]:
    """Return variant -> ratio, of rounds that map variants to costs; empty without base and reference."""
    found: dict[str, list[float]] = {}
    for costs in rounds:
        for variant, _, _, ratio in additions(costs):
            if ratio is not None:
                found.setdefault(variant, []).append(ratio)
    return {variant: Ratio.of(ratios) for variant, ratios in found.items()}


def additions(costs: Mapping[str, float]) -> Iterator[tuple[str, float, float | None, float | None]]:
    """Yield variant, cost, addition to bare, ratio to the reference's addition; None if not measured."""
    base, reference = costs.get(BASE), costs.get(REFERENCE)
    for variant, cost in costs.items():
        added = None if base is None or variant == BASE else cost - base
        ratio = None
        if added is not None and base is not None and reference is not None and reference > base:
            ratio = added / (reference - base)
        yield variant, cost, added, ratio


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """Format as `12.3` or `+12.3`; a dash for None."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the table with aligned columns: the first flush left, the others flush right."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join((first.strip().ljust(widths[0]), *others))
