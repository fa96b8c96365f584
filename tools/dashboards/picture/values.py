"""Numbers as Grafana writes them for a unit, colours by limits, and round figures for an axis."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

_SECONDS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_THOUSANDS: Final = ((1e9, "Bil"), (1e6, "Mil"), (1e3, "K"), (1, ""))
#: from so many seconds on, an axis counts in minutes
_MINUTES: Final = 120.0
_PER_SECOND: Final = {"reqps": "req/s", "ops": "ops/s"}

#: Grafana's palette-classic, as far as it is distinct, and the names that the dashboards use, on light and dark alike
PALETTE: Final = (
    "#56a64b",
    "#e0a800",
    "#3d8fd1",
    "#e8743b",
    "#e02f44",
    "#1f60c4",
    "#a352cc",
    "#37872d",
    "#b5651d",
    "#8f6cc4",
)
NAMED: Final[Mapping[str, str]] = {
    "green": "#56a64b",
    "light-green": "#96d98d",
    "yellow": "#e0a800",
    "orange": "#ff8833",
    "red": "#e02f44",
    "light-red": "#ff7383",
    "dark-red": "#ad0317",
    "blue": "#3274d9",
    "light-blue": "#8ab8ff",
    "purple": "#a352cc",
}


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """`12.3 ms`; three figures, unless `decimals` says how many behind the point."""
    if unit == "percentunit":
        return f"{_figures(value * 100, decimals)} %"
    if unit == "s":
        return _scaled(value, _SECONDS, decimals)
    if unit == "bytes":
        return _scaled(value, _BYTES, decimals)
    if unit == "binBps":
        return f"{_scaled(value, _BYTES, decimals)}/s"
    if unit in _PER_SECOND:
        return f"{_scaled(value, _THOUSANDS, decimals)} {_PER_SECOND[unit]}"
    return _figures(value, decimals) if unit == "none" else _scaled(value, _THOUSANDS, decimals).rstrip()


def _scaled(value: float, scale: Sequence[tuple[float, str]], decimals: int | None) -> str:
    divisor, word = next(((size, word) for size, word in scale if abs(value) >= size * 0.9995), scale[-1])
    if value == 0:
        divisor, word = next((size, word) for size, word in scale if size == 1)
    figures = _figures(value / divisor, decimals)
    return f"{figures}{word}" if word in {"", "K"} else f"{figures} {word}"


def _figures(value: float, decimals: int | None) -> str:
    if decimals is None:
        digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(digits, 6)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:,.{decimals}f}"


def colour_of(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """The colour of the highest limit that `value` has reached."""
    reached = [step for step in steps if step.get("value") is None or value >= step["value"]]
    return hue(reached[-1]["color"]) if reached else PALETTE[0]


def hue(name: str) -> str:
    """A colour of Grafana's by name."""
    return NAMED.get(name, name)


def ticks(top: float, unit: str, most: int = 5) -> list[float]:
    """Round values from 0 up to `top`, or just above it; `most` steps at most."""
    if top <= 0:
        return [0.0, 1.0]
    base, parts = _steps(top, unit)
    size = base ** math.floor(math.log(top / most, base))
    step = next((size * part for part in parts if size * part * most >= top * 0.999), size * base)
    return [step * number for number in range(math.ceil(top / step - 1e-6) + 1)]


def _steps(top: float, unit: str) -> tuple[float, tuple[float, ...]]:
    """What a unit counts in, and parts of it that make round figures."""
    if unit in {"bytes", "binBps"}:
        return 1024.0, (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    if unit == "s" and top >= _MINUTES:
        return 60.0, (1, 2, 5, 10, 15, 30, 60)
    return 10.0, (1, 2, 2.5, 5, 10)
