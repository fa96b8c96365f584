"""Draws docs/demo.svg, the summary that `make demo` prints, for the README: `python -m docs.picture`."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).parent / "demo.svg"
COLUMNS: Final = 100
#: pixels
CHARACTER, LINE, SIZE, MARGIN = 7.8, 17, 13, 16
BACKGROUND: Final = "#14161b"
#: the terminal colours that otel_fastperf.report.formatting.Paint uses
STYLES: Final = {
    "1": 'font-weight="bold" fill="#ffffff"',
    "2": 'fill="#7d8590"',
    "31": 'fill="#ff7b72"',
    "32": 'fill="#7ee787"',
    "33": 'fill="#e3b341"',
    "34": 'fill="#79c0ff"',
    "35": 'fill="#d2a8ff"',
    "36": 'fill="#76e3ea"',
}
_STYLED: Final = re.compile(r"\x1b\[([0-9;]*)m([^\x1b]*)")


def main() -> None:
    """Run the demo and draw its summary."""
    lines = list(_summary(_printed_by([sys.executable, "-m", "demo"])))
    TARGET.write_text(drawn(lines))
    print(f"{TARGET.name}: {len(lines)} lines")


def drawn(lines: list[str]) -> str:
    """Return the SVG of lines with ANSI colours."""
    width, height = COLUMNS * CHARACTER + 2 * MARGIN, len(lines) * LINE + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + (number + 1) * LINE - 4}" xml:space="preserve">{_spans(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{SIZE}" fill="#c9d1d9">\n'
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>\n{rows}\n</svg>\n'
    )


def _spans(line: str) -> str:
    plain, _, _ = line.partition("\x1b")
    spans = [escape(plain)]
    for codes, text in _STYLED.findall(line):
        style = " ".join(STYLES[code] for code in codes.split(";") if code in STYLES)
        spans.append(f"<tspan {style}>{escape(text)}</tspan>" if style and text else escape(text))
    return "".join(spans)


def _summary(output: str) -> Iterator[str]:
    """The lines of the summary, without the doctor's report below it."""
    lines = [line.rsplit("\r", 1)[-1] for line in output.replace("\r\n", "\n").split("\n")]
    plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in lines]
    start = next(number for number, line in enumerate(plain) if line.startswith("The shop, "))
    below = next(number for number, line in enumerate(plain) if line.startswith("The doctor's report"))
    end = max(number for number, line in enumerate(plain[:below]) if line.strip())
    return (re.sub(r"\x1b\[[0-9;?]*[a-ln-zA-Z]", "", line) for line in lines[start : end + 1])


def _printed_by(command: list[str]) -> str:
    """Return the output of a command in a terminal of `COLUMNS` columns."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environ) as process:
        os.close(its)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # Linux raises it when the other end is closed
            pass
    if process.returncode:
        raise SystemExit(output.decode(errors="replace"))
    return output.decode(errors="replace")


if __name__ == "__main__":
    main()
