"""Numbers and text for people: units, rounding, columns, colour."""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from otel_fastperf.report.histograms import Quantile

_MIB: Final = 1024 * 1024
TIMES: Final = "\N{MULTIPLICATION SIGN}"
#: between two columns
GAP: Final = "  "


#: lower bound in seconds, divisor, decimals, unit
_UNITS: Final = ((9.95, 1.0, 0, "s"), (0.9995, 1.0, 2, "s"), (0.00995, 1e-3, 0, "ms"), (0.000995, 1e-3, 1, "ms"))


class Paint:
    """Colours for a terminal, or none."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text.strip() else text

    def bold(self, text: str) -> str:
        """A heading."""
        return self._in("1", text)

    def dim(self, text: str) -> str:
        """A detail."""
        return self._in("2", text)

    def red(self, text: str) -> str:
        """An error."""
        return self._in("31", text)

    def yellow(self, text: str) -> str:
        """A warning."""
        return self._in("33", text)

    def green(self, text: str) -> str:
        """A success."""
        return self._in("32", text)

    def cyan(self, text: str) -> str:
        """An address."""
        return self._in("36", text)


def seconds(value: float) -> str:
    """Two or three digits: `0.0234` -> `23 ms`."""
    for least, unit, digits, name in _UNITS:
        if value >= least:
            return f"{value / unit:.{digits}f} {name}"
    return f"{value * 1e6:.0f} µs"


def bound(value: float) -> str:
    """The declared bound of a bucket: `0.0025` -> `2.5 ms`."""
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


def quantile(value: Quantile | None) -> str:
    """`24 ms`, `< 5 ms`, `> 10 s`, `-`."""
    if value is None:
        return "-"
    return f"{value.sign} {bound(value.value)}" if value.sign else seconds(value.value)


def number(value: float) -> str:
    """`12345.0` -> `12,345`."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in MiB."""
    return f"{value / _MIB:,.0f} MiB"


def width(text: str) -> int:
    """The number of columns that the text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def shorten(text: str, most: int) -> str:
    """The text cut to `most` columns; `…` marks the cut."""
    if width(text) <= most:
        return text
    while width(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, most: int) -> list[str]:
    """Lines of at most `most` columns, broken at blanks; a longer word is broken anywhere."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if width(joined) <= most:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if width(lines[-1] + character) > most:
                lines.append("")
            lines[-1] += character
    return lines


def columns(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """Rows in columns. A negative width aligns its column to the left."""
    lines = []
    for row in rows:
        cells = (_pad(shorten(cell, abs(size)), size) for cell, size in zip(row, widths, strict=False))
        lines.append(GAP.join(cells).rstrip())
    return lines


def _pad(text: str, size: int) -> str:
    blank = " " * (abs(size) - width(text))
    return text + blank if size < 0 else blank + text
