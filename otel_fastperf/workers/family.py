"""A worker's place among its siblings: it takes a seat, answers, gathers what all know, leaves what it has counted."""

import atexit
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

from otel_fastperf.internals.forks import on_fork
from otel_fastperf.internals.guard import Guard
from otel_fastperf.workers.folder import family_folder, sweep, turn
from otel_fastperf.workers.kinship import Kinship, kinship
from otel_fastperf.workers.ledger import Head, Ledger
from otel_fastperf.workers.talk import Answering, SiblingQuestion, Topic, ask, ask_at_length

#: name of the file that has what dead workers had counted
_ENDED: Final = "ended"
#: the topic whose answer is also written down
SNAPSHOT: Final = "snapshot"
#: ids of folded workers that are remembered, in case their file could not be removed
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """What one worker has told.

    Attributes:
        slot: Its number: the smallest one that was free when it started.
        pid: Its process id.
        body: Its answer, or what it had written down if it is silent.
        age: Seconds since it wrote that down; None if it has answered.
        has_ended: It has ended while it was asked: `body` is all that it had counted.
    """

    slot: int
    pid: int
    body: bytes
    age: float | None = None
    has_ended: bool = False


@dataclass(frozen=True, slots=True)
class Gathering:
    """What all workers of a service have told.

    Attributes:
        answers: By slot, this worker's own included.
        ended: What workers that have ended had counted; empty if none has.
    """

    answers: tuple[WorkerAnswer, ...]
    ended: bytes


@dataclass(frozen=True, slots=True)
class _Seat:
    """What a worker holds while it is one."""

    slot: int
    owner: bytes
    folder: Path
    ledger: Ledger
    answering: Answering


class Workers:
    """The siblings of this process, as seen by one app. Without siblings, nothing is opened or started.

    Attributes:
        topics: What siblings may ask for, besides the snapshot.
    """

    def __init__(
        self,
        service: Callable[[], str],
        snapshot: Callable[[], bytes],
        fold: Callable[[bytes, bytes], bytes],
        guard: Guard,
        *,
        enabled: bool = True,
    ) -> None:
        """`fold(ended, dead)` adds what a dead worker had written down to what others had."""
        self.topics: dict[str, Topic] = {SNAPSHOT: lambda _rest: self.tell()}
        self._service = service
        self._snapshot = snapshot
        self._fold_in = fold
        self._guard = guard
        self._enabled = enabled
        self._decided = not enabled
        self._seat: _Seat | None = None
        self._joining = threading.Lock()
        self._telling = threading.Lock()
        on_fork(after_in_child=self._forget)

    def join(self) -> bool:
        """Take a seat, unless this process has one or is no worker; True if it has one. Blocks for milliseconds."""
        if not self._decided:
            with self._joining:
                if not self._decided:
                    try:
                        self._join()
                    except (OSError, RuntimeError) as error:
                        self._guard.failed("workers", error)
                    self._decided = True
        return self._seat is not None

    @property
    def is_member(self) -> bool:
        """Whether this process is one of several workers, as `join` has found."""
        return self._seat is not None

    @property
    def is_alone(self) -> bool:
        """Whether this process is known to be no worker."""
        return self._decided and self._seat is None

    def tell(self) -> bytes:
        """The snapshot of this worker, which is also written down, so that it is known after its death."""
        with self._telling:
            body = self._snapshot()
            seat = self._seat
            if seat is not None:
                try:
                    seat.ledger.write(body, seat.owner)
                except OSError as error:
                    self._guard.failed("workers", error)
            return body

    def gather(
        self, topic: str = SNAPSHOT, *, own: Callable[[], bytes] | None = None, silent: frozenset[int] = frozenset()
    ) -> Gathering:
        """Ask all workers, this one too (`own`), and fold what dead ones have left.

        Those that are `silent` are not asked. Must be a member: see `join`. Blocks for up to a second.
        """
        seat = self._seat
        mine = (own or self.tell)()
        if seat is None:
            return Gathering((WorkerAnswer(0, os.getpid(), mine),), b"")
        with ExitStack() as exits:
            with turn(seat.folder) as is_ours:
                if is_ours:
                    self._fold(seat.folder)
                ended = _content(_existing(seat.folder / _ENDED, exits))[1]
                others = self._others(seat, exits)
            asked = ask({slot: head.owner for slot, (_, head) in others.items() if slot not in silent}, topic)
            answers = [WorkerAnswer(seat.slot, os.getpid(), mine)]
            # here, while the files are open
            answers += [_answered(slot, head.pid, ledger, asked.get(slot)) for slot, (ledger, head) in others.items()]
        return Gathering(tuple(sorted(answers, key=lambda answer: answer.slot)), ended)

    def from_leader(self, topic: str, rest: str) -> "tuple[bytes | None, frozenset[int]]":
        """Have the worker with the lowest number answer, so that all answers of the service come in one order.

        None if that is this one, or if it gives no answer; and the numbers of those that are silent.
        """
        seat = self._seat
        if seat is None:
            return None, frozenset()
        with ExitStack() as exits:
            for slot, (_, head) in self._others(seat, exits, below=seat.slot).items():
                asked = ask_at_length(head.owner, f"{topic} {rest}")
                if not asked.is_refused:
                    return asked.answer, frozenset() if asked.is_heard else frozenset({slot})
        return None, frozenset()

    def leave(self) -> None:
        """Write everything down, and fold it into what has ended. This process joins no more."""
        with self._joining:
            seat, self._decided = self._seat, True
            if seat is None:
                return
            seat.answering.close()
            self.tell()
            self._seat = None
        atexit.unregister(self.leave)
        try:
            with turn(seat.folder) as is_ours:
                if is_ours:
                    self._fold_one(seat.folder, seat.ledger)
        except OSError as error:
            self._guard.failed("workers", error)
        finally:
            seat.ledger.unlock()
            seat.ledger.close()

    def _join(self) -> None:
        family = kinship(self._service())
        if family is None:
            return
        with ExitStack() as exits:
            folder, slot, ledger = self._seated(family)
            exits.callback(ledger.close)
            exits.callback(ledger.remove)
            owner = os.urandom(16)
            ledger.write(b"", owner)
            self._seat = _Seat(slot, owner, folder, ledger, Answering(owner, self.topics, self._guard))
            exits.pop_all()
        atexit.register(self.leave)
        self.tell()
        with suppress(OSError):
            sweep(folder)

    def _seated(self, family: Kinship) -> tuple[Path, int, Ledger]:
        for app in count():
            # several apps of one process are several families
            folder = family_folder(family if not app else replace(family, service=f"{family.service}\0{app}"))
            with turn(folder) as is_ours:
                if is_ours:
                    self._fold(folder)
                if any(pid == os.getpid() for pid in _pids(folder)):
                    continue
                for slot in count():
                    ledger = _new(folder / str(slot))
                    if ledger is not None:
                        return folder, slot, ledger
        raise AssertionError

    def _others(self, seat: _Seat, exits: ExitStack, below: int | None = None) -> dict[int, tuple[Ledger, Head]]:
        """The file of each sibling, by slot. A file that is open can be read even after its removal."""
        found = {}
        for slot in sorted(_slots(seat.folder)):
            if slot != seat.slot and (below is None or slot < below):
                ledger = _existing(seat.folder / str(slot), exits)
                head = ledger.head() if ledger is not None else None
                if ledger is not None and head is not None:
                    found[slot] = ledger, head
        return found

    def _fold(self, folder: Path) -> None:
        """Fold all dead workers of a family. Must be its turn."""
        for slot in _slots(folder):
            with _opened(folder / str(slot)) as ledger:
                if ledger is not None and ledger.lock():
                    self._fold_one(folder, ledger)

    def _fold_one(self, folder: Path, dead: Ledger) -> None:
        head, body = dead.head(), dead.read()
        if head is not None and body:
            ended = Ledger.opened(folder / _ENDED, create=True)
            try:
                folded, before = _content(ended)
                if head.owner.hex() not in folded:
                    folded = [*folded, head.owner.hex()][-_REMEMBERED:]
                    ended.write(json.dumps(folded).encode() + b"\n" + self._folded(before, body))
            finally:
                ended.close()
        dead.remove()

    def _folded(self, before: bytes, body: bytes) -> bytes:
        try:
            return self._fold_in(before, body)
        except Exception as error:  # noqa: BLE001 - a damaged file must not stop all
            self._guard.failed("workers", error)
            return before

    def _forget(self) -> None:
        """In a forked child: the seat is the parent's, which keeps its lock."""
        seat, self._seat = self._seat, None
        # a worker's own child is none of the service's workers
        self._decided = seat is not None or not self._enabled
        self._joining = threading.Lock()
        self._telling = threading.Lock()
        if seat is not None:
            atexit.unregister(self.leave)
            seat.answering.forget()
            seat.ledger.close()


def _answered(slot: int, pid: int, ledger: Ledger, question: SiblingQuestion | None) -> WorkerAnswer:
    if question is not None and question.answer is not None:
        return WorkerAnswer(slot, pid, question.answer)
    written = ledger.read()
    if question is not None and question.is_refused:
        return WorkerAnswer(slot, pid, written, has_ended=True)
    return WorkerAnswer(slot, pid, written, ledger.age())


def _slots(folder: Path) -> Iterator[int]:
    for path in tuple(folder.iterdir()):
        if path.name.isdecimal():
            yield int(path.name)


def _pids(folder: Path) -> Iterator[int]:
    for slot in _slots(folder):
        with _opened(folder / str(slot)) as ledger:
            head = ledger.head() if ledger is not None else None
            if head is not None:
                yield head.pid


def _new(path: Path) -> Ledger | None:
    """A file of its own, locked; None if the slot is taken."""
    if path.exists():
        return None
    ledger = Ledger.opened(path, create=True)
    if ledger.lock() and ledger.is_at_its_path() and ledger.head() is None:
        return ledger
    ledger.close()
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Ledger | None]:
    with ExitStack() as exits:
        yield _existing(path, exits)


def _existing(path: Path, exits: ExitStack) -> Ledger | None:
    try:
        ledger = Ledger.opened(path, create=False)
    except OSError:
        return None
    exits.callback(ledger.close)
    return ledger


def _content(ended: Ledger | None) -> tuple[list[str], bytes]:
    """The ids of workers that were folded last, and what all of them had counted."""
    told = ended.read() if ended is not None else b""
    if not told:
        return [], b""
    first, _, body = told.partition(b"\n")
    return json.loads(first), body
