"""The terminal: its colours and a progress bar."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

from otel_fastperf.report.formatting import Paint

_BAR: Final = 30
#: seconds between two lines of progress if the output is not a terminal
_PLAIN_SECONDS: Final = 5.0


def paint_for(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Paint:
    """Colour if `stream` is a terminal that supports it and `NO_COLOR` is unset (https://no-color.org)."""
    wanted = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Paint(colour=wanted and stream.isatty())


class Progress:
    """A progress bar on one line of a terminal; a line every few seconds in other outputs."""

    def __init__(self, title: str, seconds: float, *, stream: TextIO = sys.stdout, paint: Paint | None = None) -> None:
        self._title = title
        self._seconds = seconds
        self._stream = stream
        self._paint = paint or paint_for(stream)
        self._moves = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._said = time.monotonic()

    def show(self, elapsed: float, more: str) -> None:
        """Show that `elapsed` seconds have passed, followed by the text `more`."""
        elapsed = min(elapsed, self._seconds)
        if self._moves:
            clock = f"{elapsed:3.0f} / {self._seconds:.0f} s"
            self._stream.write(f"\r{self._title}  {self._bar(elapsed)}  {clock}  {more}\x1b[K")
        elif time.monotonic() - self._said >= _PLAIN_SECONDS:
            self._said = time.monotonic()
            self._stream.write(f"{self._title}: {elapsed:.0f} of {self._seconds:.0f} s, {more}\n")
        self._stream.flush()

    def clear(self) -> None:
        """Remove the bar."""
        if self._moves:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _bar(self, elapsed: float) -> str:
        done = round(_BAR * elapsed / self._seconds) if self._seconds else _BAR
        return self._paint.green("━" * done) + self._paint.dim("━" * (_BAR - done))
