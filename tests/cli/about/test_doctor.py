"""`tinylora doctor`, as it is pasted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

from tinylora_tools import __version__

Run = Callable[..., Any]


def test_on_a_screen_and_for_programs(tinylora: Run) -> None:
    screen = tinylora("doctor")
    assert (screen.code, screen.err, screen.out.splitlines()[0]) == (0, "", f"tinylora-tools  {__version__}")
    report = json.loads(tinylora("doctor", "--json").out)
    for name, one in report["libraries"].items():
        assert [name, one["version"] or "not"] == next(
            x for x in map(str.split, screen.out.splitlines()) if x[:1] == [name]
        )[:2]
    rows = list(csv.DictReader(tinylora("doctor", "--format", "csv").out.splitlines()))
    assert {row["name"]: row["version"] for row in rows} == {
        k: v["version"] or "" for k, v in report["libraries"].items()
    }
