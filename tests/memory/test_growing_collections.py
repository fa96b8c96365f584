"""Containers of the application: their entries, what these weigh, and the one line that adds to them."""

import linecache
import sys
from collections import deque
from pathlib import Path
from types import ModuleType

import pytest
from starlette.applications import Starlette

from otel_fastperf.memory.growing_collections import adding_line, bytes_of_entry, container, sizes

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
    path = tmp_path / "container_shop.py"
    path.write_text(SOURCE)
    module = ModuleType("container_shop")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "container_shop", module)
    exec(compile(SOURCE, str(path), "exec"), module.__dict__)
    return module


def found() -> dict[str, int]:
    return {name: size for name, size in sizes().items() if name.startswith("container_shop")}


def line(name: str) -> str | None:
    site = adding_line(name, container(name))
    return None if site is None else SOURCE.splitlines()[site.line - 1].strip()


def test_globals_attributes_of_classes_and_of_objects_and_the_app_s_state_are_counted(shop: ModuleType) -> None:
    app = vars(shop)["app"] = Starlette()
    app.state.users = list(range(50))
    for number in range(20):
        shop.page(number), shop.store.keep(number, 1), shop.store.note(number)
    assert found() == {
        "container_shop.pages": 20,
        "container_shop.store.items": 20,
        "container_shop.Store.everything": 20,
        "container_shop.app.state.users": 50,
    }


def test_small_ones_are_passed_over(shop: ModuleType) -> None:
    vars(shop)["pages"].update(dict.fromkeys(range(9)))
    assert found() == {}


def test_one_that_is_gone_is_none(shop: ModuleType) -> None:
    assert container("container_shop.gone") is None


def test_the_line_that_adds_is_found_however_it_is_written(shop: ModuleType) -> None:
    assert line("container_shop.pages") == "pages[visitor] = bytes(1000)  # here"
    assert line("container_shop.last") == "last.append(visitor)"
    assert line("container_shop.seen") == "seen.add(visitor)"
    assert line("container_shop.store.items") == "self.items[key] = value"
    assert line("container_shop.Store.everything") == "cls.everything.append(value)"


def test_a_function_too_long_to_be_read_is_passed_over(shop: ModuleType) -> None:
    path = Path(str(shop.__file__))
    long = "def longer(visitor):\n    pages[visitor] = [\n" + "        1,\n" * 600 + "    ]\n"
    path.write_text(SOURCE + long)
    exec(compile(SOURCE + long, str(path), "exec"), shop.__dict__)
    linecache.clearcache()
    assert line("container_shop.pages") == "pages[visitor] = bytes(1000)  # here"


def test_where_two_lines_add_none_is_named(shop: ModuleType) -> None:
    assert line("container_shop.twice") is None


def test_without_source_none_is_named(shop: ModuleType) -> None:
    Path(str(shop.__file__)).unlink()
    linecache.clearcache()
    assert line("container_shop.pages") is None


@pytest.mark.parametrize("entries", [[bytes(1000)] * 30, {n: bytes(1000) for n in range(30)}, deque([bytes(1000)] * 9)])
def test_an_entry_weighs_what_it_takes(entries: object) -> None:
    assert bytes_of_entry(entries) == pytest.approx(1000, rel=0.1)


def test_what_an_entry_refers_to_counts_too() -> None:
    class Page:
        def __init__(self) -> None:
            self.text = bytes(1000)

    for entries in ([Page() for _ in range(9)], {Page() for _ in range(9)}, [{"a": bytes(1000)}], [(bytes(1000),)]):
        assert bytes_of_entry(entries) == pytest.approx(1100, rel=0.4)
    assert bytes_of_entry([]) == 0
