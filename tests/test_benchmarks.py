"""`python -m benchmarks` runs, on models of no size; what it measures then is nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_suite_runs(tmp_path: Path) -> None:
    names = ["merge", "init", "packed", "project", "start", "inspect"]  # factor decomposes a large weight whole
    words = [*names, "--sizes", "tiny", "--runs", "1", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {"merge-tiny", "init-tiny", "packed-again", "project-13x3", "start-merge", "inspect-shards"} <= {*rows}


def test_a_benchmark_that_there_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no benchmark is named nothing: merge, init" in done.stderr) == (2, True)
