"""Siblings are waited for as long as they hear: one that is stopped or blocked delays nobody for long."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from otel_fastperf.internals.guard import Guard
from otel_fastperf.workers import talk
from otel_fastperf.workers.talk import Answering, Topic, ask, ask_at_length


@pytest.fixture
def owner() -> bytes:
    """A name that nobody else has."""
    return os.urandom(16)


@contextmanager
def sibling(owner: bytes, topics: Callable[[], dict[str, Topic]]) -> Iterator[int]:
    """A process that answers."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        Answering(owner, topics(), Guard(print))
        os.write(writer, b"+")
        threading.Event().wait()
    try:
        os.read(reader, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def stops(_rest: str) -> bytes:
    """The answer of a process that is stopped in the middle of it."""
    os.kill(os.getpid(), signal.SIGSTOP)
    # the signal stops this thread a moment later
    threading.Event().wait()
    return b""


def test_an_answer_that_takes_longer_than_a_question_is_waited_for(
    owner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "_LOOK", 2.0)
    looks: list[bytes] = []

    def hears(owner: bytes) -> bool:
        looks.append(owner)
        # looks are over: it may answer
        os.write(writer, b"+")
        return True

    reader, writer = os.pipe()
    monkeypatch.setattr(talk, "_hears", hears)
    with sibling(owner, lambda: {"page": lambda rest: os.read(reader, 1) + rest.encode()}):
        question = ask_at_length(owner, "page of it")
    assert question.answer == b"+of it"
    assert question.is_heard
    assert looks == [owner]
    os.close(reader)
    os.close(writer)


def test_a_sibling_that_is_stopped_while_it_answers_at_length_is_given_up(
    owner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without the looks, it would be waited for until the test run ends
    monkeypatch.setattr(talk, "_LONGEST", 1e6)
    with sibling(owner, lambda: {"page": stops}):
        question = ask_at_length(owner, "page")
    assert question.answer is None
    assert not question.is_heard
    assert not question.is_refused


def test_a_sibling_that_is_stopped_while_it_answers_has_no_answer_and_the_others_have(owner: bytes) -> None:
    other = os.urandom(16)
    with sibling(owner, lambda: {"snapshot": stops}), sibling(other, lambda: {"snapshot": lambda _rest: b"told"}):
        asked = ask({0: owner, 1: other}, "snapshot")
    assert asked[0].answer is None
    assert asked[1].answer == b"told"


def test_a_stopped_sibling_is_silent_and_one_that_has_ended_refuses(owner: bytes) -> None:
    with sibling(owner, lambda: {"snapshot": lambda _rest: b"told"}) as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        for question in (ask_at_length(owner, "snapshot"), ask({0: owner}, "snapshot")[0]):
            assert (question.answer, question.is_heard, question.is_refused) == (None, False, False)
    for question in (ask_at_length(owner, "snapshot"), ask({0: owner}, "snapshot")[0]):
        assert (question.answer, question.is_refused) == (None, True)


def test_an_answer_that_fails_is_none(owner: bytes) -> None:
    with sibling(owner, lambda: {"snapshot": bytes.fromhex}):
        question = ask_at_length(owner, "snapshot xyz")
    assert question.answer is None
    assert not question.is_open
