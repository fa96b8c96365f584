"""A worker's file has its last whole content, whatever happens while the next one is written."""

import os
from pathlib import Path

import pytest

from otel_fastperf.workers.ledger import Ledger, is_held


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0"


def test_the_content_is_replaced_and_the_file_stays_small(path: Path) -> None:
    ledger = Ledger.opened(path, create=True)
    for number in range(50):
        ledger.write(b"%d" % number * 1000)
        assert Ledger.opened(path, create=False).read() == b"%d" % number * 1000
    assert path.stat().st_size < 3 * 2000 + 200


def test_a_write_that_is_cut_short_leaves_the_content_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.opened(path, create=True)
    ledger.write(b"first")
    original = os.pwrite

    def full(fd: int, content: bytes, start: int) -> int:
        if start:
            original(fd, content[:3], start)
            raise OSError(28, "No space left on device")
        return original(fd, content, start)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        ledger.write(b"second, and longer")
    assert ledger.read() == b"first"


def test_a_damaged_content_is_none(path: Path) -> None:
    ledger = Ledger.opened(path, create=True)
    assert ledger.read() == b""
    ledger.write(b"counted")
    path.write_bytes(path.read_bytes().replace(b"counted", b"cOunted"))
    assert ledger.read() == b""


def test_the_lock_is_free_once_the_file_is_closed(path: Path) -> None:
    ledger = Ledger.opened(path, create=True)
    assert ledger.lock()
    assert is_held(path)
    assert not Ledger.opened(path, create=False).lock()
    ledger.close()
    assert not is_held(path)
