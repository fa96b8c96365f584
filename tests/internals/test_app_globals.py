"""The names of an application's caches and collections."""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from otel_fastperf.internals.app_globals import application_modules, name_of, named_values, wrapped

SOURCE = """
import functools
import json

class Prices:
    known = {}

    @functools.lru_cache
    def of(self, product): ...

    @staticmethod
    @functools.lru_cache
    def in_euros(price): ...

@functools.lru_cache(maxsize=8)
def shipping(product): ...

cache = {}
"""


class Touchy:
    """A proxy that raises on every access, as outside of its context."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("working outside of request context")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of an application."""
    module = ModuleType("made_up_shop")
    module.__file__ = str(tmp_path / "made_up_shop.py")
    exec(compile(SOURCE, module.__file__, "exec"), module.__dict__)
    module.__dict__["current"] = Touchy()
    monkeypatch.setitem(sys.modules, "made_up_shop", module)
    return module


def test_modules_of_packages_and_of_python_are_not_the_application_s(shop: ModuleType) -> None:
    names = {name for name, _ in application_modules()}
    assert "made_up_shop" in names
    assert not names & {"functools", "json", "fastapi", "pytest", "otel_fastperf", "otel_fastperf.settings"}


def test_globals_and_attributes_of_classes_have_a_name(shop: ModuleType) -> None:
    named = {name: value for name, value in named_values() if name.startswith("made_up_shop.")}
    assert named["made_up_shop.shipping"] is shop.shipping
    assert named["made_up_shop.cache"] is shop.cache
    assert named["made_up_shop.Prices.known"] is shop.Prices.known
    assert named["made_up_shop.Prices.of"] is shop.Prices.__dict__["of"]
    assert named["made_up_shop.Prices.in_euros"] is shop.Prices.in_euros


def test_attributes_of_unknown_objects_are_not_accessed(shop: ModuleType) -> None:
    assert "made_up_shop.current" in dict(named_values())


def test_a_value_is_recognised_by_identity(shop: ModuleType) -> None:
    assert name_of(shop.cache) == "made_up_shop.cache"
    assert name_of({}) is None


def test_an_object_in_place_of_a_module_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_up_object", Touchy())
    assert list(application_modules())


def test_a_wrapper_is_followed_to_the_function_it_wraps() -> None:
    def inner() -> None: ...

    cached = functools.lru_cache(inner)

    @functools.wraps(cached)
    def outer() -> None: ...

    assert list(wrapped(outer)) == [outer, cached, inner]
    assert list(wrapped(7)) == [7]
    inner.__dict__["__wrapped__"] = inner
    assert list(wrapped(inner)) == [inner]
