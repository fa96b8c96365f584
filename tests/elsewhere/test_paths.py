"""Frames of Windows, whose code has backslashes in its file name."""

import sys
from types import FrameType
from typing import Any

from otel_fastperf.awaiting.threads import _is_pool
from otel_fastperf.event_loop.stack_sampler import LoopWork, _work
from otel_fastperf.internals.frames import package_of

LIBRARY = "C:\\Python\\Lib\\"


def frame_of(name: str, file: str) -> FrameType:
    """The frame of a function of this name in this file."""
    namespace: dict[str, Any] = {"sys": sys}
    exec(compile(f"def {name}():\n    return sys._getframe()", file, "exec"), namespace)
    frame: FrameType = namespace[name]()
    return frame


def test_a_thread_of_a_pool_is_known() -> None:
    assert _is_pool(frame_of("run", f"{LIBRARY}concurrent\\futures\\thread.py"))
    assert not _is_pool(frame_of("run", "C:\\shop\\jobs.py"))


def test_the_work_of_a_blocked_loop_is_known() -> None:
    packages = f"{LIBRARY}site-packages\\"
    statement = frame_of("do_execute", f"{packages}sqlalchemy\\engine\\default.py")
    response = frame_of("jsonable_encoder", f"{packages}fastapi\\encoders.py")
    assert _work([statement], blamed=False) is LoopWork.IN_DATABASE
    assert _work([response], blamed=False) is LoopWork.SERIALIZING


def test_a_package_is_named() -> None:
    assert package_of(f"{LIBRARY}site-packages\\shop\\orders.py") == "shop"
