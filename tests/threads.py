"""The threads that a test starts. The process has others, left by earlier tests, which may end at any time."""

import threading
from collections.abc import Collection


def new_threads(before: Collection[threading.Thread], *, name: str = "") -> list[threading.Thread]:
    """The threads that run now and are not in `before`, an earlier `threading.enumerate()`; those of this name only."""
    return [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith(name)]
