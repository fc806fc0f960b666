"""`tinylora verify-output`: what it says, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixture_data import fixture

Run = Callable[..., Any]
CASE = fixture("peft021-layers")


def test_from_merge_to_a_difference(tinylora: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert tinylora("merge", CASE.adapter, "--base", CASE.base, "-o", out, "--manifest").code == 0
    alone = tinylora("verify-output", out)
    assert alone.code == 0
    assert alone.out.splitlines()[1:] == [
        "  neither base nor adapters looked at",
        "  0 tensors formed again",
        "All is as it was recorded.",
    ]
    whole = tinylora("verify-output", out, CASE.adapter, "--base", CASE.base, "--sample", 2, "--json")
    report = json.loads(whole.out)
    assert (whole.code, report["ok"], report["recomputed"], report["differences"]) == (0, True, 2, [])
    (out / "a\n  fake").touch()
    (out / "config.json").write_text("{}")
    other = tinylora("verify-output", out)
    assert (other.code, other.out.splitlines()[-1]) == (1, "2 differences.")
    assert "  output: a\\n  fake: this file wasn't there\n  output: config.json: this file was changed\n" in other.out


def test_without_a_manifest(tinylora: Run, tmp_path: Path) -> None:
    assert tinylora("merge", CASE.adapter, "--base", CASE.base, "-o", tmp_path / "out").code == 0
    result = tinylora("verify-output", tmp_path / "out")
    assert (result.code, "holds no tinylora-manifest.json" in result.err) == (1, True)
