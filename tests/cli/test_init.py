"""`tinylora init` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixture_data import ROOT
from peft import TinyLoraConfig

Run = Callable[..., Any]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_init_then_verify_then_merge(tinylora: Run, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    result = tinylora("init", BASE, "-o", out, "--init-weights", "uniform", "--init-seed", 3, "-u", 5, "--json")
    assert (result.code, json.loads(result.out)["init_seed"]) == (0, 3)
    result = tinylora("verify-base", out, "--base", BASE)
    assert result.code == 0
    assert "The targeted weights fit the adapter's factors; " in result.out
    assert tinylora("merge", out, "--base", BASE, "-o", tmp_path / "merged").code == 0
    assert tinylora("init", BASE, "-o", out).code == 1
    assert tinylora("init", BASE, "-o", out, "-f", "-q").out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", BASE, "-o", BASE / "inside"], "lies inside the input"),
        (["init", BASE, "-o", "OUT", "--device", "cuda:99"], "isn't usable here"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(complaint: Callable[..., str], arguments: list[object], said: str) -> None:
    assert said in complaint(1, *arguments)


def test_init_says_what_peft_will_find(tinylora: Run, tmp_path: Path) -> None:
    """The options are TinyLoraConfig's fields: PEFT reads each back as it was typed."""
    out = tmp_path / "adapter"
    result = tinylora(
        "init", BASE, "-o", out, "-r", 3, "-u", 7, "--weight-tying", 0.5, "--projection-seed", 9,
        "--target-modules", "q_proj,v_proj", "--layers-to-transform", "0,2", "--task-type", "CAUSAL_LM",
        "--base-model", "owner/name", "--bias", "all",
    )  # fmt: skip
    assert result.code == 0
    assert "4 modules in 2 groups, 14 trainable parameters" in result.out
    config = TinyLoraConfig.from_pretrained(out)
    assert (config.r, config.u, config.weight_tying, config.projection_seed) == (3, 7, 0.5, 9)
    assert (config.target_modules, config.layers_to_transform) == ({"q_proj", "v_proj"}, [0, 2])
    assert (config.task_type, config.base_model_name_or_path) == ("CAUSAL_LM", "owner/name")
    assert (config.bias, config.save_projection) == ("all", True)


def test_the_weights_own_dtype_as_it_is_typed(tinylora: Run, tmp_path: Path) -> None:
    """Half the bytes, and what count says of it."""
    typed = [BASE, "--target-modules", "q_proj", "-u", 3]
    assert tinylora("init", *typed, "-o", tmp_path / "a", "--adapter-dtype", "auto").code == 0
    counted = json.loads(tinylora("count", *typed, "--adapter-dtype", "bf16", "--json").out)
    wide = json.loads(tinylora("count", *typed, "--json").out)
    assert counted["stored_bytes"] == (tmp_path / "a" / "adapter_model.safetensors").stat().st_size
    assert counted["trainable_bytes"] * 2 == wide["trainable_bytes"]
    said = tinylora("init", *typed, "-o", tmp_path / "b", "--adapter-dtype", "fp16")
    assert (said.code, "say --adapter-dtype auto" in " ".join(said.err.split())) == (1, True)
