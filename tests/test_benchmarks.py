"""`python -m benchmarks` runs, on models of no size; what it measures then is nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import scaling

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_suite_runs(tmp_path: Path) -> None:
    names = [
        "merge",
        "init",
        "packed",
        "project",
        "start",
        "inspect",
        "whole",
    ]  # factor decomposes a large weight whole
    words = [*names, "--sizes", "tiny", "--runs", "1", "--directory", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {
        "merge-tiny",
        "init-tiny",
        "packed-again",
        "project-13x3",
        "start-merge",
        "inspect-hub",
        "restore-tiny-whole",
    } <= {*rows}


def test_a_benchmark_that_there_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no benchmark is named nothing: merge, init" in done.stderr) == (2, True)


def test_cost_against_size_is_drawn() -> None:
    """A curve that doubles with size has a slope, a power of 1, and a place in the picture; a name for each."""
    doubled = [(0.5, 1.5), (1.0, 2.5), (2.0, 4.5), (4.0, 8.5)]
    start, slope = scaling.line_through(doubled)
    assert (start, slope) == (pytest.approx(0.5), pytest.approx(2.0))
    assert scaling.exponent(doubled, start) == pytest.approx(1.0)
    drawn = scaling.picture({"merge, GB": doubled, "inspect <all>, 10 tensors": [(0.5, 0.3), (4.0, 0.4)]})
    root = ElementTree.fromstring(drawn)  # noqa: S314
    curves = [one.get("points", "").split() for one in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(curve) for curve in curves] == [4, 2]
    assert "merge: 2.00 s for a GB" in drawn
    assert "inspect &lt;all&gt;: 0.03 s for 10 tensors" in drawn
