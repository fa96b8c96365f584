"""Which lines of a function need each other: read from the source, written as applications write it."""

from pathlib import Path

import pytest

from otel_fastperf.findings import CallSite
from otel_fastperf.internals.source_code import are_independent, calls_at, is_in_loop

#: each function awaits `first` and `second` somewhere
INDEPENDENT = """
async def one_after_the_other():
    price = await first()
    stock = await second()
    return price, stock

async def with_work_in_between(order):
    price = await first(order.id)
    total = round(price.json()["total"])
    log.info("priced %s", total)
    stock = await second(order.id)
    return total, stock

async def with_errors_raised():
    price = await first()
    price.raise_for_status()
    stock = await second()
    return price, stock

async def items_of_a_dict():
    return {
        "price": await first(),
        "stock": await second(),
    }

async def responses_as_contexts(session):
    async with session.get(first()) as price:
        prices = await price.json()
    async with session.get(second()) as stock:
        return prices, await stock.json()

def without_await(session):
    price = session.get(first())
    stock = session.get(second())
    return price, stock
"""

DEPENDENT = """
async def by_value():
    token = await first()
    return await second(token)

async def by_a_value_made_of_it():
    answer = await first()
    token = answer.json()["token"]
    headers = {"authorization": token}
    profile = await second(headers=headers)
    return profile

async def by_a_condition():
    user = await first()
    if user is None:
        raise LookupError
    orders = await second()
    return orders

async def inside_of_a_condition():
    user = await first()
    if user.has_orders:
        orders = await second()
        return orders

async def by_a_changed_object():
    session.headers.update(await first())
    answer = await second(session)
    return answer

async def by_an_attribute(self):
    self.user = await first()
    orders = await second(self.user)
    return orders

async def a_command_and_a_question():
    await first()
    answer = await second()
    return answer

async def one_inside_of_the_other():
    return await second(
        await first(),
    )

async def in_another_order():
    while True:
        answer = await second()
        more = await first()
"""


def sites(folder: Path, source: str, function: str) -> tuple[CallSite, CallSite]:
    file = folder / "app.py"
    file.write_text(source)
    lines = source.splitlines()
    start = next(number for number, line in enumerate(lines) if line.partition("(")[0].endswith(f"def {function}"))
    first, second = (
        next(number for number in range(start + 1, len(lines)) if f"{name}(" in lines[number]) + 1
        for name in ("first", "second")
    )
    return CallSite(str(file), first, function), CallSite(str(file), second, function)


def functions(source: str) -> list[str]:
    return [line.partition("(")[0].split()[-1] for line in source.splitlines() if "def " in line]


@pytest.mark.parametrize("function", functions(INDEPENDENT))
def test_lines_that_do_not_need_each_other(tmp_path: Path, function: str) -> None:
    assert are_independent(*sites(tmp_path, INDEPENDENT, function))


@pytest.mark.parametrize("function", functions(DEPENDENT))
def test_lines_that_need_each_other_or_may(tmp_path: Path, function: str) -> None:
    assert not are_independent(*sites(tmp_path, DEPENDENT, function))


def test_without_source_nothing_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n    first()\n    second()\n")
    for file in (str(tmp_path / "missing.py"), str(broken)):
        one, other = CallSite(file, 2, "f"), CallSite(file, 3, "f")
        assert not are_independent(one, other)
        assert not is_in_loop(one)
        assert calls_at(one) == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("for item in items(): call(item)", True),
        ("while more(): call()", True),
        ("return [call(item) for item in items()]", True),
        ("return {item: call(item) for item in items()}", True),
        ("return call()", False),
    ],
)
def test_a_line_in_a_loop(tmp_path: Path, line: str, expected: bool) -> None:
    file = tmp_path / "loop.py"
    file.write_text(f"def f():\n    {line}\n")
    assert is_in_loop(CallSite(str(file), 2, "f")) is expected


def test_the_calls_of_one_line(tmp_path: Path) -> None:
    file = tmp_path / "line.py"
    file.write_text("async def f():\n    return [await one(await two()), await three()]\n")
    assert calls_at(CallSite(str(file), 2, "f")) == 2


def test_what_a_loop_iterates_over_runs_once(tmp_path: Path) -> None:
    file = tmp_path / "once.py"
    file.write_text("def f():\n    for item in call(\n        1\n    ):\n        print(item)\n")
    assert not is_in_loop(CallSite(str(file), 3, "f"))
    assert is_in_loop(CallSite(str(file), 5, "f"))
