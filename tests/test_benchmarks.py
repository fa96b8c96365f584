"""The benchmarks run and show every variant. No test here depends on a duration."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("prometheus_fastapi_instrumentator", reason="it comes with the dependency group `bench`")

from benchmarks import table
from benchmarks.load import Outcome, of_wrk
from benchmarks.variants import PATHS, STATEMENTS, VARIANTS
from tests.serving import ROOT

#: the variants that trace every request
TRACING = {"contrib", "contrib_nosr", "native", "stock", "fastperf", "fastperf_no_monitors"}

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


@pytest.mark.parametrize("variants", [("bare", "contrib_nosr", "fastperf")])
def test_the_apps_are_also_measured_without_a_server(variants: Sequence[str]) -> None:
    output = run("benchmarks.direct", *variants, "--rounds", "1")
    assert first_words(output) == ["process,", *variants, "loop,", *variants]
    assert all(path in output for path in PATHS)


def test_an_unknown_variant_is_named_in_the_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "wrong"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "unknown variant wrong. Remedy: choose from bare, contrib" in done.stderr


def test_the_output_of_wrk_is_parsed() -> None:
    assert of_wrk(WRK) == Outcome(requests=4812, failed=6, seconds=1.0, p99=1.5)


def test_added_time_is_compared_with_that_of_the_reference() -> None:
    rows = list(table.additions({"bare": 100.0, "contrib_nosr": 300.0, "fastperf": 150.0}))
    assert rows == [("bare", 100.0, None, None), ("contrib_nosr", 300.0, 200.0, 1.0), ("fastperf", 150.0, 50.0, 0.25)]


def test_without_the_reference_there_is_no_ratio() -> None:
    assert list(table.additions({"bare": 100.0, "pfi": 150.0})) == [
        ("bare", 100.0, None, None),
        ("pfi", 150.0, 50.0, None),
    ]


def test_every_path_shows_its_number_of_statements() -> None:
    assert PATHS.keys() == STATEMENTS.keys()
