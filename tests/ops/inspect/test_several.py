"""Several sources, with a row each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fixture_data import ROOT, fixture

from tinylora_tools.ops.inspect.run import inspect
from tinylora_tools.ops.inspect.several import inspect_several

Run = Callable[..., Any]

GOOD = [fixture("peft021-13-numbers").adapter, ROOT / "bases" / "gpt2-fp32", fixture("peft021-pickled").adapter]


def test_each_report_is_the_one_alone() -> None:
    several = inspect_several(GOOD)
    assert [row.report for row in several.sources] == [inspect(source) for source in GOOD]
    assert several.ok
    assert [(row.kind, row.parameters, row.groups) for row in several.sources] == [
        ("tinylora-adapter", 13, 1), ("checkpoint", 29568, None), ("tinylora-adapter", 12, 4),
    ]  # fmt: skip


def test_what_cannot_be_read_keeps_nobody_from_the_others(tinylora: Run) -> None:
    sources = [GOOD[0], "nowhere", GOOD[1]]
    result = tinylora("inspect", *sources)
    assert result.code == 1
    assert "nowhere: no such file or directory" in result.out
    assert "1 of 3 can't be read." in result.out
    report = json.loads(tinylora("inspect", *sources, "--json").out)
    assert [row["error"] for row in report["sources"]] == [None, "no such file or directory", None]
    assert [row["parameters"] for row in report["sources"]] == [13, None, 29568]


def test_one_after_the_other(tinylora: Run) -> None:
    alone = "".join(tinylora("inspect", source).out for source in GOOD[:2])
    both = tinylora("inspect", *GOOD[:2], "--rows", "all")
    assert both.code == 0
    assert [line for line in both.out.splitlines() if line] == [line for line in alone.splitlines() if line]
