"""Work that requests leave for later: what their records mean is derived in batches, on a thread of its own.

A request appends and goes on. The thread starts with the first item, works in short batches so that no other thread
waits long for the GIL, and ends after a second without work; an app that is dropped therefore leaves nothing behind.
Whoever reads what is derived (a scrape, a report, `shutdown()`) calls `drain` first, and so sees all that has happened.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

from otel_fastperf.internals.forks import on_fork

#: seconds between batches; a request's findings and metrics are late by this
_PAUSE: Final = 0.02
#: items after which other threads get a turn. One that wants to go on waits up to 5 ms for the GIL while the app
#: computes (`sys.getswitchinterval`), so a batch must be worth that, and short enough for the event loop: some 1 ms
_BATCH: Final = 48
#: items that end the pause: what waits longer is old to the garbage collector, which then walks it several times
_MANY: Final = 16
#: seconds without work after which the thread ends
_IDLE: Final = 1.0
#: items that may wait; beyond that, the thread that adds one works off some, so nothing is lost and memory is bounded
_MOST: Final = 4096
_WORKED_OFF: Final = 4
#: seconds that a fork waits for the batch under way: an item may hold a lock, which a child would find taken for ever
_FORK_PATIENCE: Final = 0.25
#: seconds that `drain` waits for another thread that drains; a deadlock in a listener must not last
_PATIENCE: Final = 2.0


class Backlog:
    """Calls without arguments that wait. Safe to use from any thread."""

    def __init__(self, failed: Callable[[Exception], object] = bool) -> None:
        """`failed(error)` is told of a call that raises; the others are made all the same."""
        self._failed = failed
        self._waiting: deque[Callable[[], object]] = deque()
        self._after: Callable[[], object] = bool
        self._running = False
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._worker: int | None = None
        self._forking = False
        on_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._forget)

    def put(self, item: Callable[[], object]) -> None:
        """Have `item()` called soon."""
        self._waiting.append(item)
        if not self._running:
            self._start()
        elif len(self._waiting) == _MANY:
            self._wake.set()
        elif len(self._waiting) > _MOST:
            self._work(_WORKED_OFF)

    def after_batch(self, call: Callable[[], object]) -> None:
        """Have `call()` called after each batch, by the thread that worked; the last one counts."""
        self._after = call

    @property
    def works_here(self) -> bool:
        """Whether the caller is an item."""
        return self._worker == threading.get_ident()

    def drain(self) -> None:
        """Call all items that wait, here and now. Does nothing inside of an item."""
        if self.works_here:
            return
        left = len(self._waiting)
        while self._work(min(left, _BATCH)) and left > _BATCH:
            left -= _BATCH

    def stop(self) -> None:
        """Call all items that wait, and end the thread. The next item starts another."""
        self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)
        self._stopping = False
        self.drain()

    def _before_fork(self) -> None:
        self._forking = self._working.acquire(timeout=_FORK_PATIENCE)

    def _after_fork(self) -> None:
        if self._forking:
            self._forking = False
            self._working.release()

    def _forget(self) -> None:
        """In the child: the items are the parent's, and the thread has not come along."""
        self._waiting.clear()
        self._running = self._forking = False
        self._stopping = False
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._working = threading.Lock()
        self._worker = None

    def _work(self, number: int) -> bool:
        """Call up to `number` items; False if another thread did not finish its batch in time."""
        if not self._working.acquire(timeout=_PATIENCE):
            return False
        self._worker = threading.get_ident()
        try:
            self._call_waiting(number)
            self._call(self._after)
        finally:
            self._worker = None
            self._working.release()
        return True

    def _call_waiting(self, number: int) -> None:
        # without `_call`, a call for each item
        take = self._waiting.popleft
        for _ in range(number):
            try:
                item = take()
            except IndexError:  # another thread was faster
                return
            try:
                item()
            except Exception as error:  # noqa: BLE001 - one bad item must not end the thread
                self._failed(error)

    def _call(self, item: Callable[[], object]) -> None:
        try:
            item()
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)

    def _start(self) -> None:
        with self._starting:
            if self._running:
                return
            self._running = True
        try:
            # an empty context: the thread must not keep alive what the first request has set
            thread = threading.Thread(
                target=Context().run, args=(self._run,), name="otel_fastperf-backlog", daemon=True
            )
            self._thread = thread
            thread.start()
        except RuntimeError:
            # no thread can be started: the interpreter ends, or the limit is reached
            self._running = False
            self.drain()

    def _run(self) -> None:
        idle = 0.0
        while idle < _IDLE and not self._stopping:
            self._wake.wait(_PAUSE)
            self._wake.clear()
            idle = 0.0 if self._waiting else idle + _PAUSE
            while self._waiting:
                self._work(_BATCH)
                time.sleep(0)  # lets go of the GIL
        self._running = False
        if self._waiting and not self._stopping:
            # appended just before the line above, by a thread that still saw this one running
            self._start()
