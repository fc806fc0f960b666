"""`tinylora diff` as a person and a script see it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixture_data import fixture

Run = Callable[..., Any]


def test_exit_codes_and_forms(tinylora: Run, tmp_path: Path) -> None:
    case = fixture("peft021-13-numbers")
    assert tinylora("merge", case.adapter, "--base", case.base, "-o", tmp_path / "merged").code == 0
    same = tinylora("diff", case.base, case.base)
    assert (same.code, same.out.splitlines()[-1]) == (0, "Equal.")
    other = tinylora("diff", tmp_path / "merged", case.base)
    lines = [line.split() for line in other.out.splitlines()]
    assert (other.code, lines[-1]) == (1, ["Not", "equal."])
    assert sum(line[-1:] == ["2"] for line in lines) == 84
    kinds = tinylora("diff", tmp_path / "merged", case.base, "--rows", "kinds").out
    assert sum(line.split()[1:2] == ["12"] for line in kinds.splitlines()) == 7
    as_json = tinylora("diff", tmp_path / "merged", case.base, "--json")
    report = json.loads(as_json.out)
    assert (as_json.code, report["equal"], len(report["differences"])) == (1, False, 84)
    rows = list(csv.DictReader(tinylora("diff", tmp_path / "merged", case.base, "--format", "csv").out.splitlines()))
    assert [float(row["relative"]) for row in rows] == [one["relative"] for one in report["differences"]]


def test_what_only_one_has(tinylora: Run) -> None:
    first, second = fixture("peft020-scalar").adapter, fixture("peft020-tiny").adapter
    result = tinylora("diff", first, second)
    assert (result.code, f"Only in {second}:" in result.out, "Settings that differ:" in result.out) == (1, True, True)
    assert tinylora("diff", first, second, "--tolerance", "-1").code == 2
