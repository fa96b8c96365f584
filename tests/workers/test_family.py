"""Who belongs together: processes that share a listening socket with their parent; apps of one process do not."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_fastperf.internals.guard import Guard
from otel_fastperf.workers import Workers
from otel_fastperf.workers.kinship import kinship
from tests.serving import ROOT


def in_child(call: Callable[[], object]) -> str:
    """What the call returns in a forked child, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(call()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        return told.read()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The socket of a server, as it passes it on to its workers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def workers(body: bytes = b"told") -> Workers:
    return Workers(lambda: "shop", lambda: body, lambda ended, dead: ended + dead, Guard(print))


def name(service: str = "shop") -> str:
    family = kinship(service)
    return "none" if family is None else family.name


def test_children_that_share_the_server_s_socket_are_siblings(listener: socket.socket) -> None:
    first = in_child(name)
    assert first != "none"
    assert in_child(name) == first
    assert in_child(lambda: name("other")) != first


def test_services_on_two_ports_are_strangers(listener: socket.socket) -> None:
    first = in_child(name)
    listener.close()
    with socket.create_server(("127.0.0.1", 0)):
        assert in_child(name) not in {first, "none"}


def test_a_process_that_opens_its_own_socket_has_no_siblings() -> None:
    script = (
        "import socket; from otel_fastperf.workers.kinship import kinship;"
        " listening = socket.create_server(('127.0.0.1', 0)); print(kinship('shop'))"
    )
    # not by a fork: the test run itself may listen
    told = subprocess.run((sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "None\n"


def test_what_a_dead_worker_has_written_is_kept_once(listener: socket.socket, runtime: Path) -> None:
    assert in_child(lambda: workers(b"one ").join()) == "True"
    assert in_child(lambda: workers(b"two ").join()) == "True"

    def gather() -> object:
        living = workers(b"three")
        living.join()
        return living.gather(), living.gather(), sorted(path.name for path in runtime.glob("*/*/*"))

    told = in_child(gather)
    assert told.count("ended=b'one two '") == 2
    assert told.endswith("['0', 'ended'])")


def test_two_apps_of_one_process_are_kept_apart(listener: socket.socket) -> None:
    def gather() -> object:
        one, other = workers(b"one"), workers(b"other")
        assert one.join()
        assert other.join()
        return [[answer.body for answer in each.gather().answers] for each in (one, other)]

    assert in_child(gather) == "[[b'one'], [b'other']]"


def test_a_child_of_a_worker_is_no_worker(listener: socket.socket) -> None:
    def fork() -> object:
        worker = workers()
        worker.join()
        return in_child(worker.join), worker.is_member

    assert in_child(fork) == "('False', True)"


def test_a_folder_of_somebody_else_is_not_used(listener: socket.socket, runtime: Path) -> None:
    (runtime / f"otel_fastperf-{os.geteuid()}").symlink_to(runtime)
    failures: list[str] = []

    def join() -> object:
        member = Workers(lambda: "shop", lambda: b"", lambda ended, dead: ended, Guard(failures.append)).join()
        return member, list(runtime.glob("*-*-*"))

    # it takes the temporary folder instead
    assert in_child(join) == "(True, [])"
