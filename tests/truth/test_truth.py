"""A few of the apps: what is told of them is true. `make truth` runs all, on every event loop and database."""

import asyncio
from typing import Final

import pytest

from tests.truth.catalogue import Variant, apps, quick
from tests.truth.judge import Judgement
from tests.truth.runner import run

CHOSEN: Final = {
    f"{variant.app.name} {variant}": variant
    for position, app in enumerate(app for app in apps() if app.truth.quick)
    for variant in quick(app, position)
}

# The first test waits for all apps.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def judgements(request: pytest.FixtureRequest) -> dict[str, Judgement]:
    """All of them are run once, some at a time: an app waits more than it computes."""
    wanted = {item.name.partition("[")[2].removesuffix("]") for item in request.session.items}
    chosen: dict[str, Variant] = {name: variant for name, variant in CHOSEN.items() if name in wanted}
    found = asyncio.run(run(chosen.values(), at_once=2, short=20.0))
    return dict(zip(chosen, found, strict=True))


@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_told_is_true(name: str, judgements: dict[str, Judgement]) -> None:
    wrong, still_wrong = judgements[name].wrong, judgements[name].variant.app.truth.open
    if wrong and still_wrong:
        pytest.xfail(still_wrong)
    if any("NoServerError" in reason for reason in wrong):
        pytest.skip(wrong[0])
    assert wrong == ()
