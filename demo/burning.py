"""CPU work that takes a stated time on the machine it runs on.

Thresholds are durations, so a fault must last equally long on a fast and on a slow machine. The faults that wait do so
anyway. The faults that burn CPU are calibrated when the service starts: `calibrated` measures how many steps fill the
stated time. A constant number of rounds, rows or objects would be a fault on one machine and none on another.

`DEMO_SPEED` is a test aid. It makes this machine look that many times as fast to every calibrated fault: with
`DEMO_SPEED=3` a step does a third of the work, with `DEMO_SPEED=0.3` more than three times the work. Calibration has to
make up for it; a fault that is not calibrated goes missing, as it would on such a machine.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

#: name of the variable that emulates another machine
VARIABLE: Final = "DEMO_SPEED"

#: number of measurements, of which the shortest counts: interruptions only ever add time
_MEASUREMENTS: Final = 3
#: share of the stated time that has to be measured before the rest is extrapolated
_MEASURED_SHARE: Final = 1 / 8


def emulated_speed(environ: Mapping[str, str] = os.environ) -> float:
    """Speed of the emulated machine relative to this one; 1 unless `DEMO_SPEED` is set.

    Raises:
        ValueError: It is not a positive number.
    """
    text = environ.get(VARIABLE, "1")
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        message = f"{VARIABLE} is {text!r}, but must be a positive number. Remedy: unset it."
        raise ValueError(message)
    return speed


def at_speed(units: int) -> int:
    """Units of work that cost this machine what `units` would cost the emulated one; at least 1.

    Every CPU-bound loop with a fixed number of steps goes through here.
    """
    return max(1, round(units / emulated_speed()))


def calibrated(
    work: Callable[[int], object],
    seconds: float,
    *,
    first: int,
    most: float = math.inf,
    clock: Callable[[], float] = time.thread_time,
) -> int:
    """Measure how many steps `work` can do in `seconds`.

    Args:
        work: Does the given number of steps; its duration has to grow in proportion to it.
        seconds: The time to fill.
        first: Steps of the first measurement. The number is doubled until it takes long enough to be measured.
        most: Limit on the number of steps, and on the result.
        clock: CPU time of this thread by default, which other processes do not distort.
    """
    steps = first
    while (taken := _shortest(work, steps, clock)) < seconds * _MEASURED_SHARE and steps < most:
        steps *= 2
    return max(1, round(min(most, steps * seconds / taken)))


def _shortest(work: Callable[[int], object], steps: int, clock: Callable[[], float]) -> float:
    durations = []
    for _ in range(_MEASUREMENTS):
        started = clock()
        work(steps)
        durations.append(clock() - started)
    return min(durations)
