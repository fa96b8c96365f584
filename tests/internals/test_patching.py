"""Each patched function has one wrapper, whatever subscribes and in whatever order it unsubscribes."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from otel_fastperf.internals.patching import Patch, subscribed


class Shop:
    """A class of another package."""

    def price(self, item: str) -> str:
        return f"price of {item}"


class Corner(Shop):
    """A class that inherits the patched method."""


def discounting(original: Callable[..., str], patch: Patch[str]) -> Callable[..., str]:
    def price(*arguments: Any) -> str:
        return original(*arguments) + "".join(f", {each}" for each in patch.subscribers.values())

    return price


def test_a_log_record_of_the_caller_s_caller_names_what_is_wrapped() -> None:
    """SQLAlchemy's `echo` does so: its records would come from functions of ours."""

    def who_calls(_self: Shop) -> str:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        return frame.f_back.f_code.co_name

    def passing_on(original: Callable[..., str], _patch: Patch[str]) -> Callable[..., str]:
        def pass_on(*arguments: Any) -> str:
            return original(*arguments)

        return pass_on

    owner = object()
    shop = type("Shop", (), {"buy": who_calls})
    with subscribed(shop, "buy", passing_on, owner, ""):
        assert shop().buy() == "buy"


def test_the_wrapper_sees_the_current_subscribers() -> None:
    first, second = object(), object()
    with subscribed(Shop, "price", discounting, first, "ten off"):
        with subscribed(Shop, "price", discounting, second, "two for one"):
            assert Shop().price("tea") == "price of tea, ten off, two for one"
        assert Shop().price("tea") == "price of tea, ten off"
    assert Shop().price("tea") == "price of tea"


def test_the_last_subscriber_to_leave_restores_the_original() -> None:
    original = Shop.price
    first, second = ExitStack(), ExitStack()
    first.enter_context(subscribed(Shop, "price", discounting, first, "a"))
    second.enter_context(subscribed(Shop, "price", discounting, second, "b"))
    first.close()
    assert Shop().price("tea") == "price of tea, b"
    second.close()
    assert Shop.price is original


def test_an_inherited_method_is_inherited_again_afterwards() -> None:
    with subscribed(Corner, "price", discounting, Corner, "a"):
        assert (Corner().price("tea"), Shop().price("tea")) == ("price of tea, a", "price of tea")
    assert "price" not in vars(Corner)


def test_an_object_uses_the_method_of_its_class_again_afterwards() -> None:
    shop = Shop()
    with subscribed(shop, "price", discounting, shop, "a"):
        assert shop.price("tea") == "price of tea, a"
        assert Shop().price("tea") == "price of tea"
    assert "price" not in vars(shop)


def test_a_later_wrapper_of_another_package_stays_and_works() -> None:
    original = Shop.price
    ours = subscribed(Shop, "price", discounting, Shop, "a")
    with ours:
        below = Shop.price
        Shop.price = lambda self, item: below(self, item).upper()  # type: ignore[method-assign]
    assert Shop().price("tea") == "PRICE OF TEA"
    Shop.price = original  # type: ignore[method-assign]


def test_a_thousand_subscriptions_under_another_wrapper_add_no_frame() -> None:
    shop = Shop()
    depths: list[int] = []

    def price(item: str) -> str:
        depths.append(len(inspect.stack(0)))
        return item

    shop.price = price  # type: ignore[method-assign]
    with subscribed(shop, "price", discounting, shop, "a"):
        below = shop.price
        shop.price = lambda item: below(item)  # type: ignore[method-assign]  # noqa: PLW0108 - the wrapper of another package
        assert shop.price("tea") == "tea, a"
    for _ in range(1000):
        with subscribed(shop, "price", discounting, shop, "b"):
            pass
    with subscribed(shop, "price", discounting, shop, "c"):
        assert shop.price("tea") == "tea, c"
    assert depths[0] == depths[-1]


def test_a_wrapper_that_somebody_removed_is_installed_again() -> None:
    shop = Shop()
    original = shop.price
    with subscribed(shop, "price", discounting, shop, "a"):
        shop.price = original  # type: ignore[method-assign]
    with subscribed(shop, "price", discounting, shop, "b"):
        assert shop.price("tea") == "price of tea, b"


def test_overlapping_subscribers_add_no_frame() -> None:
    original = Shop.price
    places = [ExitStack() for _ in range(1000)]
    for place in places:
        place.enter_context(subscribed(Shop, "price", discounting, place, ""))
    assert Shop().price("tea").startswith("price of tea")  # nested wrappers would raise a RecursionError
    for place in places:
        place.close()
    assert Shop.price is original
