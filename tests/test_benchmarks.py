"""The benchmarks run and show every variant. No test here depends on a duration."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("prometheus_fastapi_instrumentator", reason="it comes with the dependency group `bench`")

from benchmarks import direct, guard, sizes, table
from benchmarks.figures import PUBLISHED
from benchmarks.load import Outcome, of_wrk
from benchmarks.table import Ratio
from benchmarks.variants import PATHS, STATEMENTS, VARIANTS, installed
from tests.serving import ROOT

#: the variants that trace every request
TRACING = {"contrib", "contrib_nosr", "native", "native_fastotel", "stock", "fastperf", "fastperf_no_monitors"}

WRK = """\
Running 1s test @ http://127.0.0.1:8000/ping
  1 threads and 16 connections
  Latency Distribution
     50%    4.22ms
     99%    1.50s
  4812 requests in 1.00s, 0.66MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 3
"""


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_words(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines() if line.strip()]


def test_make_bench_shows_every_variant_and_its_spans(tmp_path: Path) -> None:
    file = tmp_path / "medians.json"
    output = run("benchmarks", "--path", "/items", "--rounds", "1", "--seconds", "0.5", "--json", str(file))
    assert first_words(output)[1:] == ["/items", *VARIANTS, *VARIANTS]
    spans = {variant: figures["spans"] for variant, figures in json.loads(file.read_text())["/items"].items()}
    assert {variant for variant, number in spans.items() if number >= 1} == TRACING
    assert spans["bare"] == spans["pfi"] == 0


@pytest.mark.parametrize("variants", [("bare", "stock", "fastperf")])
def test_the_apps_are_also_measured_without_a_server(variants: Sequence[str]) -> None:
    output = run("benchmarks.direct", *variants, "--rounds", "1", "--seconds", "0.05")
    assert first_words(output) == ["process,", *variants, "loop,", *variants]
    assert all(direct.column(path) in output for path in PATHS)


def test_the_page_about_scale_has_the_table_and_the_figures_that_it_follows_from() -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    assert "\n".join(sizes.table()) in page
    for figure in (sizes.COLLECTOR_SPANS_PER_CORE, sizes.JAEGER_SPANS_PER_CORE, sizes.DISK_PER_SPAN):
        assert f"{figure:,}" in page
    assert f"| {sizes.MEMORY_PER_SERIES:,} bytes |" in page
    assert f"| {sizes.DISK_PER_SAMPLE} bytes |" in page


def test_an_unknown_variant_is_named_in_the_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "wrong"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "unknown variant wrong. Remedy: choose from bare, contrib" in done.stderr


def test_the_output_of_wrk_is_parsed() -> None:
    assert of_wrk(WRK) == Outcome(requests=4812, failed=6, seconds=1.0, p99=1.5)


def test_added_time_is_compared_with_that_of_the_reference() -> None:
    rows = list(table.additions({"bare": 100.0, "stock": 300.0, "fastperf": 150.0}))
    assert rows == [("bare", 100.0, None, None), ("stock", 300.0, 200.0, 1.0), ("fastperf", 150.0, 50.0, 0.25)]


def test_without_the_reference_there_is_no_ratio() -> None:
    assert list(table.additions({"bare": 100.0, "pfi": 150.0})) == [
        ("bare", 100.0, None, None),
        ("pfi", 150.0, 50.0, None),
    ]


def test_a_ratio_is_the_median_over_the_rounds_with_its_median_absolute_deviation() -> None:
    costs = (125.0, 150.0, 200.0)
    rounds = [{"bare": 100.0, "stock": 200.0, "fastperf": cost} for cost in costs]
    assert table.ratios(rounds) == {"stock": Ratio(1.0, 0.0), "fastperf": Ratio(0.5, 0.25)}


def test_a_round_in_which_the_reference_adds_nothing_has_no_ratio() -> None:
    disturbed = {"bare": 300.0, "stock": 200.0, "fastperf": 150.0}
    assert table.ratios([disturbed, {"bare": 100.0, "stock": 200.0, "fastperf": 150.0}])["fastperf"] == Ratio(0.5, 0.0)
    assert table.ratios([disturbed]) == {}


FIGURES = {"fastperf": {"/ping": 0.2, "/items-sync": 0.4}}


def test_the_guard_accepts_ratios_up_to_one_and_a_half_times_the_published_ones() -> None:
    measured = {"fastperf": {"/ping": Ratio(0.29, 0.2), "/items-sync": Ratio(0.59, 0.0)}}
    assert list(guard.over_limit(measured, FIGURES)) == []


def test_the_guard_names_the_column_the_measured_ratio_and_the_limit() -> None:
    measured = {"fastperf": {"/ping": Ratio(0.2, 0.0), "/items-sync": Ratio(0.61, 0.012)}}
    (message,) = guard.over_limit(measured, FIGURES)
    assert message.startswith(
        "fastperf, 1 statement, sync: it adds 0.610 ±0.012 of what stock adds; the limit is 0.600, 1.5 times the"
        " published 0.400. Remedy: "
    )


@pytest.mark.parametrize(
    ("costs", "code"),
    [([110.0], 0), ([190.0, 190.0], 1), ([190.0, 110.0], 0)],
    ids=["within", "a regression", "a disturbance"],
)
def test_the_guard_exits_with_1_only_if_a_ratio_is_over_its_limit_twice(
    costs: list[float], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = iter(costs)

    def measured(variants: Sequence[str], paths: Sequence[str], number: int) -> direct.Rounds:
        known, cost = {"bare": 100.0, "stock": 200.0}, next(runs)
        each = {variant: {"process": known.get(variant, cost), "loop": 0.0} for variant in variants}
        return {path: [each] * number for path in paths}

    monkeypatch.setattr(direct, "run", measured)
    monkeypatch.setattr(guard, "PUBLISHED", FIGURES)
    if code:
        with pytest.raises(SystemExit, match=r"fastperf, no I/O: it adds 0\.900 .*\n.*fastperf, 1 statement, sync: "):
            guard.main()
    else:
        guard.main()
    shown = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown[:3] == ["ratio to stock", "fastperf, no I/O", "fastperf, 1 statement, sync"]
    assert shown.count("ratio to stock") == len(costs)
    assert list(runs) == []


def test_every_published_figure_belongs_to_a_variant_and_an_endpoint() -> None:
    assert PUBLISHED.keys() <= VARIANTS.keys()
    assert all(endpoints.keys() <= PATHS.keys() for endpoints in PUBLISHED.values())


def test_a_variant_without_its_package_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VARIANTS, "native_fastotel", replace(VARIANTS["native_fastotel"], needs="no_such_package"))
    assert installed(["bare", "native_fastotel"]) == ["bare"]
    assert capsys.readouterr().err == "native_fastotel is left out: no_such_package is not installed\n"


def test_every_path_shows_its_number_of_statements() -> None:
    assert PATHS.keys() == STATEMENTS.keys()
