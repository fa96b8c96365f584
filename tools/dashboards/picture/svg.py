"""The few shapes that pictures are made of. Colours that differ between light and dark are classes, set once."""

from html import escape
from typing import Final

#: pixels of one character of the text in size 12, on average; a font is not at hand to measure it
CHARACTER: Final = 7.3

STYLE: Final = """
  svg { --page: #f4f5f5; --card: #ffffff; --line: #d8dadd; --grid: #e9eaec; --text: #24292e; --soft: #6a737d;
        font-family: Inter, "Helvetica Neue", Arial, sans-serif; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #111217; --card: #181b1f; --line: #2f333a; --grid: #24272c; --text: #d8d9da; --soft: #9a9da3; }
  }
  .page { fill: var(--page) } .card { fill: var(--card); stroke: var(--line) } .grid { stroke: var(--grid) }
  .unfilled { fill: var(--grid) } .text { fill: var(--text) } .soft { fill: var(--soft) }
  .rule { stroke: var(--line) } .ring { stroke: var(--card) }
"""


def number(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def size(width: float, height: float) -> str:
    """The attributes of a whole picture."""
    return f'width="{width:.0f}" height="{height:.0f}"'


def label(
    x: float,
    y: float,
    words: str,
    *,
    size: float = 12,
    kind: str = "text",
    anchor: str = "start",
    bold: bool = False,
    colour: str = "",
    room: float = 0,
) -> str:
    """Text at its base line; longer than `room` pixels, it ends in an ellipsis and its title has it all."""
    shown = fitted(words, room, size) if room else words
    style = f'fill="{colour}"' if colour else f'class="{kind}"'
    weight = ' font-weight="600"' if bold else ""
    title = f"<title>{escape(words)}</title>" if shown != words else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{number(size)}" text-anchor="{anchor}"{weight} {style}>'
        f"{title}{escape(shown)}</text>"
    )


def width_of(words: str, size: float = 12) -> float:
    """About how wide a text is, in pixels."""
    return len(words) * CHARACTER * size / 12


def fitted(words: str, room: float, size: float = 12) -> str:
    """A text cut to fit."""
    most = max(1, int(room / (CHARACTER * size / 12)))
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def rectangle(x: float, y: float, width: float, height: float, *, style: str, radius: float = 0) -> str:
    """`style` is attributes: `class="card"` or `fill="#fff"`."""
    corners = f' rx="{number(radius)}"' if radius else ""
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" height="{number(max(height, 0))}"'
        f"{corners} {style}/>"
    )


def line(x1: float, y1: float, x2: float, y2: float, *, style: str) -> str:
    """A straight line."""
    return f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" {style}/>'


def path(points: list[tuple[float, float]]) -> str:
    """`M … L …` through points."""
    return "M" + "L".join(f"{number(x)},{number(y)}" for x, y in points)
