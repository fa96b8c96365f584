"""The generated pages of the docs are up to date."""

import pytest

from docs.generate import FOLDER, PAGES, ROOT, with_layers
from otel_fastperf.metrics import CATALOGUE
from otel_fastperf.settings import OWN, STANDARD, Settings
from tools import semconv


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == "\n".join(PAGES[name]()), "run `make docs`"


def test_the_registry_of_names_is_up_to_date() -> None:
    assert semconv.main(["--check"]) == 0, "run `make docs`"


def test_the_layers_in_contributing_match_the_contract() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert with_layers(text) == text, "run `make docs`"


def test_the_metrics_page_names_every_metric() -> None:
    text = (FOLDER / "metrics.md").read_text()
    assert [metric.name for metric in CATALOGUE if f"| `{metric.name}` | {metric.kind} |" not in text] == []


def test_the_settings_page_names_every_variable() -> None:
    text = (FOLDER / "settings.md").read_text()
    assert [variable for variable in (*OWN, *dict(STANDARD)) if f"`{variable}`" not in text] == []


def test_the_description_of_every_setting_is_a_sentence() -> None:
    fields = {
        f"{name}.{inner}" if inner else name: described
        for name, field in Settings.model_fields.items()
        for inner, described in getattr(field.annotation, "model_fields", {"": field}).items()
    }
    assert [path for path, field in fields.items() if not (field.description or "").endswith(".")] == []
