"""Hooks around a fork belong to objects, and end with them."""

import gc
import os
import sys
import weakref

import pytest

from otel_fastperf.internals.forks import on_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


class Recorder:
    """Notes the hooks that were called."""

    def __init__(self, name: str, called: list[str]) -> None:
        self.name = name
        self.called = called
        on_fork(before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def before(self) -> None:
        self.called.append(f"{self.name} before")

    def in_parent(self) -> None:
        self.called.append(f"{self.name} in parent")

    def in_child(self) -> None:
        self.called.append(f"{self.name} in child")


def fork(called: list[str]) -> str:
    """Fork; return what had been called in the child, separated by commas."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, ",".join(called).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="warns of a fork beside threads, which the runner has")
def test_the_newest_hook_runs_first_before_a_fork_and_last_after_it() -> None:
    called: list[str] = []
    recorders = [Recorder("first", called), Recorder("second", called)]
    in_child = fork(called)
    assert called == ["second before", "first before", "first in parent", "second in parent"]
    assert in_child == "second before,first before,first in child,second in child"
    assert len(recorders) == 2


def test_a_hook_does_not_keep_its_object() -> None:
    recorder = Recorder("short-lived", [])
    reference = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert reference() is None


def test_objects_that_are_gone_leave_nothing_behind() -> None:
    Recorder("warm-up", [])
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(1000):
        Recorder("short-lived", [])
    gc.collect()
    # one for each of them would be 1000; a thread of an earlier test may make a few meanwhile
    assert len(gc.get_objects()) < before + 500
