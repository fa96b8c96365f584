"""Collections of the application: their sizes, the size of an entry, and the only line that adds to them."""

import linecache
import sys
from collections import deque
from pathlib import Path
from types import ModuleType

import pytest
from starlette.applications import Starlette

from otel_fastperf.memory.growing_collections import adding_line, bytes_of_entry, collection, sizes

SOURCE = """
from collections import deque

pages = {}
last = deque()
seen = set()
twice = {}

class Store:
    everything = []

    def __init__(self):
        self.items = {}

    def keep(self, key, value):
        self.items[key] = value

    @classmethod
    def note(cls, value):
        cls.everything.append(value)

store = Store()

def page(visitor):
    if visitor not in pages:
        pages[visitor] = bytes(1000)  # here
    return pages[visitor]

def visit(visitor):
    last.append(visitor)
    seen.add(visitor)
    twice[visitor] = 1

def again(visitor):
    twice[visitor] = 2
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = tmp_path / "collection_shop.py"
    path.write_text(SOURCE)
    module = ModuleType("collection_shop")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "collection_shop", module)
    exec(compile(SOURCE, str(path), "exec"), module.__dict__)
    return module


def found() -> dict[str, int]:
    return {name: size for name, size in sizes().items() if name.startswith("collection_shop")}


def line(name: str) -> str | None:
    site = adding_line(name, collection(name))
    return None if site is None else SOURCE.splitlines()[site.line - 1].strip()


def test_sizes_cover_globals_attributes_of_classes_and_objects_and_the_app_s_state(shop: ModuleType) -> None:
    app = vars(shop)["app"] = Starlette()
    app.state.users = list(range(50))
    for number in range(20):
        shop.page(number), shop.store.keep(number, 1), shop.store.note(number)
    assert found() == {
        "collection_shop.pages": 20,
        "collection_shop.store.items": 20,
        "collection_shop.Store.everything": 20,
        "collection_shop.app.state.users": 50,
    }


def test_small_collections_are_ignored(shop: ModuleType) -> None:
    vars(shop)["pages"].update(dict.fromkeys(range(9)))
    assert found() == {}


def test_a_collection_that_no_longer_exists_is_none(shop: ModuleType) -> None:
    assert collection("collection_shop.gone") is None


def test_the_line_that_adds_is_found_however_it_is_written(shop: ModuleType) -> None:
    assert line("collection_shop.pages") == "pages[visitor] = bytes(1000)  # here"
    assert line("collection_shop.last") == "last.append(visitor)"
    assert line("collection_shop.seen") == "seen.add(visitor)"
    assert line("collection_shop.store.items") == "self.items[key] = value"
    assert line("collection_shop.Store.everything") == "cls.everything.append(value)"


def test_a_very_long_function_is_ignored(shop: ModuleType) -> None:
    path = Path(str(shop.__file__))
    long = "def longer(visitor):\n    pages[visitor] = [\n" + "        1,\n" * 600 + "    ]\n"
    path.write_text(SOURCE + long)
    exec(compile(SOURCE + long, str(path), "exec"), shop.__dict__)
    linecache.clearcache()
    assert line("collection_shop.pages") == "pages[visitor] = bytes(1000)  # here"


def test_no_line_is_named_if_two_lines_add(shop: ModuleType) -> None:
    assert line("collection_shop.twice") is None


def test_no_line_is_named_without_source(shop: ModuleType) -> None:
    Path(str(shop.__file__)).unlink()
    linecache.clearcache()
    assert line("collection_shop.pages") is None


@pytest.mark.parametrize("entries", [[bytes(1000)] * 30, {n: bytes(1000) for n in range(30)}, deque([bytes(1000)] * 9)])
def test_the_size_of_an_entry_is_estimated(entries: object) -> None:
    assert bytes_of_entry(entries) == pytest.approx(1000, rel=0.1)


def test_objects_that_an_entry_refers_to_count_too() -> None:
    class Page:
        def __init__(self) -> None:
            self.text = bytes(1000)

    for entries in ([Page() for _ in range(9)], {Page() for _ in range(9)}, [{"a": bytes(1000)}], [(bytes(1000),)]):
        assert bytes_of_entry(entries) == pytest.approx(1100, rel=0.4)
    assert bytes_of_entry([]) == 0
