"""The line of a frame that another thread looks at, where Python knows none or names the function's head."""

import functools
import inspect
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import CodeType
from typing import Final

import pytest

from otel_fastperf.internals.lines import line_of

#: sightings of a function, which are enough to see it at each place at which it lets go of the interpreter
_ENOUGH: Final = 40
_SECONDS: Final = 20.0


def jumps_back_after_an_if(stop: threading.Event) -> None:
    names = [str(number) for number in range(3_000)]
    while not stop.is_set():
        seen: list[str] = []
        for name in names:
            if name not in seen:  # <- here
                seen.append(name)  # <- here


@functools.lru_cache(maxsize=0)
def begins_again_and_again(text: str) -> bool:
    """A docstring has no code."""
    return text * 20_000 < text * 10_000  # <- here


def calls(stop: threading.Event) -> None:
    while not stop.is_set():
        deque(map(begins_again_and_again, "abc" * 1_000), maxlen=0)


@pytest.mark.parametrize(
    ("work", "seen"),
    [(jumps_back_after_an_if, jumps_back_after_an_if), (calls, inspect.unwrap(begins_again_and_again))],
)
def test_a_frame_seen_from_another_thread_is_at_a_line_that_works(
    work: Callable[[threading.Event], None], seen: Callable[..., object]
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        lines = _lines(thread, seen.__code__)
    finally:
        stop.set()
        thread.join()
    source, first = inspect.getsourcelines(seen)
    working = {first + number for number, line in enumerate(source) if "<- here" in line}
    # the rest of a loop is quick, and may be seen now and then
    assert sum(line in working for line in lines) > 0.8 * len(lines), (lines, working)


def _lines(thread: threading.Thread, code: CodeType) -> list[int]:
    lines: list[int] = []
    end = time.monotonic() + _SECONDS
    while len(lines) < _ENOUGH and time.monotonic() < end:
        time.sleep(0.001)
        frame = sys._current_frames()[thread.ident or 0]
        if frame.f_code is code:
            lines.append(line_of(frame))
    assert lines
    return lines
