"""The registry of our names in docs/semconv: in weaver's format, the same as in the code, and true of live spans."""

import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from tests.deploy.live_spans import exported_by_the_demo
from tests.deploy.servers import ROOT
from tests.otlp import ReceivedSpan
from tools import semconv

PACKAGE: Final = ROOT / "otel_fastperf"
#: file, properties that its members need, and those that they may have
SHAPES: Final = [
    ("attributes", {"key", "type", "brief", "stability"}, {"examples"}),
    ("spans", {"type", "kind", "brief", "stability", "name"}, {"attributes"}),
    ("events", {"name", "brief", "stability"}, {"attributes"}),
    ("metrics", {"name", "brief", "stability", "instrument", "unit"}, {"attributes"}),
]
REGISTRY: Final[dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(semconv.FOLDER.glob("*.yaml"))
}
ATTRIBUTES: Final = {one["key"]: one["type"] for one in REGISTRY["attributes"]["attributes"]}
_TYPES: Final = {"string": str, "int": int, "double": float, "boolean": bool, "string[]": list}
#: names in the code that are no attributes: events, and beginnings of names
_OTHERS: Final = {"fastperf.await", "fastperf.explain", "fastperf.time", "fastperf.evidence"}


@pytest.mark.parametrize(("name", "needed", "allowed"), SHAPES)
def test_a_file_has_the_form_of_weaver_s_definitions(name: str, needed: set[str], allowed: set[str]) -> None:
    """As schemas/semconv-syntax.v2.md of weaver 0.25 describes it; weaver itself is in no package registry."""
    assert REGISTRY[name].keys() == {"file_format", name}
    assert REGISTRY[name]["file_format"] == "definition/2"
    for one in REGISTRY[name][name]:
        assert needed <= one.keys() <= needed | allowed, one
        assert one["stability"] == "development"
        assert one["brief"].endswith(".")
    keys = [one.get("key") or one.get("name") for one in REGISTRY[name][name] if name != "spans"]
    assert len(set(keys)) == len(keys)


def test_types_kinds_and_instruments_are_those_of_weaver() -> None:
    for kind in ATTRIBUTES.values():
        assert isinstance(kind, dict) or re.fullmatch(r"(string|int|double|boolean)(\[\])?|template\[any\]", kind)
    assert {one["kind"] for one in REGISTRY["spans"]["spans"]} <= {"server", "client", "internal"}
    assert {one["instrument"] for one in REGISTRY["metrics"]["metrics"]} <= {"counter", "gauge", "histogram"}


def test_what_signals_refer_to_is_defined_here_or_by_opentelemetry() -> None:
    signals = [one for name in ("spans", "events", "metrics") for one in REGISTRY[name][name]]
    referred = {reference["ref"] for one in signals for reference in one["attributes"]}
    assert {
        key for key in referred - ATTRIBUTES.keys() if not key.startswith(("code.", "db.", "http.", "server."))
    } == {*(referred & {"error.type", "url.scheme"})}
    assert {key for key in ATTRIBUTES if key.startswith("fastperf.")} - referred == {"fastperf.link"}


def test_the_registry_has_the_attributes_that_the_code_sets_and_no_others() -> None:
    written = {
        name.rstrip(".")
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'"(fastperf\.[a-z_.]+)[":]', path.read_text())
    }
    ours = {key for key in ATTRIBUTES if key.startswith("fastperf.")}
    generated = {key for key in ours if key.startswith(("fastperf.time.", "fastperf.evidence"))}
    assert written - _OTHERS == ours - generated


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> list[ReceivedSpan]:
    return exported_by_the_demo(tmp_path_factory.mktemp("spans"))


def _live(spans: list[ReceivedSpan]) -> Iterator[tuple[str, Any]]:
    for span in spans:
        for attributes in (span.attributes, *(event.attributes for event in span.events)):
            yield from ((name, value) for name, value in attributes.items() if name.startswith("fastperf."))


def test_attributes_of_live_spans_are_in_the_registry_with_their_types(spans: list[ReceivedSpan]) -> None:
    seen = set()
    for name, value in _live(spans):
        if not name.startswith("fastperf.evidence."):
            kind = ATTRIBUTES[name]
            assert type(value) is _TYPES.get(kind if isinstance(kind, str) else "string"), name
            if not isinstance(kind, str):
                assert value in {member["value"] for member in kind["members"]}
            seen.add(name)
    assert len(seen) > 25


def test_events_of_live_spans_are_in_the_registry(spans: list[ReceivedSpan]) -> None:
    ours = {event.name for span in spans for event in span.events if event.name.startswith("fastperf.")}
    assert len(ours) > 3
    assert ours <= {one["name"] for one in REGISTRY["events"]["events"]}
