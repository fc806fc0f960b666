"""`tinylora count` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fixture_data import ROOT

Run = Callable[..., Any]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_count_shows_groups_and_budgets(tinylora: Run) -> None:
    result = tinylora("count", BASE, "--target-modules", "all-linear", "-u", 13, "--weight-tying", 1)
    assert result.code == 0
    assert "13 parameters in 1 group: 52 bytes in float32, 26 bytes in bfloat16" in result.out
    assert "84 modules" in result.out
    result = tinylora("count", BASE, "--target-modules", "all-linear", "--budget", 13)
    lines = [line.split() for line in result.out.splitlines()]
    assert ["13", "1", "1", "13", "26", "bytes"] in lines
    assert all(int(line[3]) <= 13 for line in lines if len(line) == 6 and line[0].isdigit())


def test_count_as_json(tinylora: Run) -> None:
    result = tinylora("count", BASE, "-r", 4, "--bias", "all", "--modules-to-save", "lm_head", "--json")
    report = json.loads(result.out)
    assert report["trainable_parameters"] == 64 * 24
    assert report["trainable_bytes_by_dtype"] == {"float32": 6144, "bfloat16": 3072, "float16": 3072}
    assert report["modules_to_save_parameters"] == 96 * 16
    assert report["bias_parameters"] == 12 * (16 + 16 + 16)
    assert report["stored_bytes"] == report["stored_bytes_with_projection"] > report["stored_bytes_without_projection"]
    assert report["groups"][1] == {"group": 1, "parameters": 64, "modules": ["model.layers.0.self_attn.v_proj"]}
    assert report["modules"][1]["index"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["count", "nowhere"], "no such file or directory"),
        (["count", BASE, "--target-modules", "q_prj"], "Did you mean q_proj"),
        (["count", BASE, "--target-modules", "mlp"], "no Linear, Conv1D or Embedding"),
        (["count", BASE, "--layers-pattern", "layers"], "without layers_to_transform"),
        (["count", BASE, "--layers-to-transform", "99"], "no module in the layers asked for matches"),
        (["count", BASE, "-r", "0"], "expected positive integers"),
        (["count", BASE, "--weight-tying", "1.5"], "from 0 to 1"),
        (["count", BASE, "--projection-seed", str(2**64)], "out of torch's range"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(complaint: Callable[..., str], arguments: list[object], said: str) -> None:
    assert said in complaint(1, *arguments)
