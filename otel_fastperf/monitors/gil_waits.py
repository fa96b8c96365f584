"""How often a thread was refused the GIL when its sleep was over.

A thread that waits for the GIL wakes up every 5 ms (`sys.getswitchinterval`) to ask for it. Linux counts these
voluntary context switches for each thread. Elsewhere a late thread has waited for the GIL if its process computed.
"""

import sys
import time
from contextlib import suppress
from typing import Final

with suppress(ImportError):  # macOS has no RUSAGE_THREAD, Windows no such module
    from resource import RUSAGE_THREAD, getrusage

#: CPU time of the process as a share of a delay, from which its threads caused it
_COMPUTED: Final = 0.5


class GilWaits:
    """Those of the calling thread in one sleep, which begins now."""

    __slots__ = ("_cpu", "_switches")

    def __init__(self) -> None:
        self._switches = _voluntary_switches()
        self._cpu = time.process_time()

    def failed(self, late: float) -> int:
        """How many attempts failed, if the sleep has ended `late` seconds after its time."""
        switches = _voluntary_switches()
        if self._switches is not None and switches is not None:
            # one switch is the sleep itself
            return switches - self._switches - 1
        if time.process_time() - self._cpu < _COMPUTED * late:
            return 0
        return int(late / sys.getswitchinterval())


def _voluntary_switches() -> int | None:
    try:
        return getrusage(RUSAGE_THREAD).ru_nvcsw
    except NameError:
        return None
