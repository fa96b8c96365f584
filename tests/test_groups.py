"""Tests of a group run in one process, whatever version of pytest and pytest-xdist is installed."""

import re
import subprocess
import sys

from tests.serving import ROOT


def test_one_process_runs_a_group() -> None:
    command = [sys.executable, "-m", "pytest", "--verbose", "--numprocesses=2", "--dist=loadgroup"]
    of_the_demo = ["tests/demo/test_sparkline.py", "tests/demo/test_waterfall.py"]
    run = subprocess.run([*command, *of_the_demo], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(set(re.findall(r"^\[(gw\d)\] .* PASSED", run.stdout, re.MULTILINE))) == 1, run.stdout
