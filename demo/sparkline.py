"""A curve in one line of text."""

from collections.abc import Sequence
from typing import Final

_BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, low: float | None = None, high: float | None = None) -> str:
    """Draw one character per value, scaled from `low` to `high`; by default from the lowest to the highest value."""
    if not values:
        return ""
    low, high = min(values) if low is None else low, max(values) if high is None else high
    steps = ((value - low) / (high - low) if high > low else 0.0 for value in values)
    return "".join(_BARS[min(7, max(0, int(step * 8)))] for step in steps)
