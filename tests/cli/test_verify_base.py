"""`tinylora verify-base` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from damage import edit
from fixture_data import ROOT, fixture

Run = Callable[..., Any]
Copied = Callable[[str], tuple[Path, Path]]
BASE = ROOT / "bases" / "qwen2-bf16"


def test_verify_base_exits_with_1_for_a_stranger(tinylora: Run) -> None:
    result = tinylora(
        "verify-base", fixture("peft021-13-numbers").adapter, "--base", ROOT / "bases" / "llama-fp32", "--json"
    )
    assert result.code == 1
    assert json.loads(result.out)["verdict"] == "other-model"


def test_a_base_is_no_adapter(complaint: Callable[..., str]) -> None:
    assert "no adapter here" in complaint(1, "verify-base", BASE, "--base", BASE)


def test_verify_base_names_the_worst_first(copied: Copied, tinylora: Run) -> None:
    adapter, base = copied("peft020-tiny")
    moved = "model.layers.1.mlp.up_proj"

    def stir(tensors: dict[str, Any]) -> None:
        noise = np.random.default_rng(0).standard_normal(tensors[f"{moved}.weight"].shape)
        tensors[f"{moved}.weight"] += (0.05 * np.std(tensors[f"{moved}.weight"]) * noise).astype(np.float32)

    edit(base / "model.safetensors", stir)
    result = tinylora("verify-base", adapter, "--base", base)
    lines = result.out.splitlines()
    assert result.code == 1
    assert lines[0] == f"{adapter} against {base}"
    assert lines[1].startswith("  14 modules: 1 fine-tuned, 13 same-base; ")
    rows = [line.split()[:2] for line in lines if line.startswith("model.layers.")]
    assert (len(rows), rows[0]) == (14, [moved, "fine-tuned"])
    assert lines[-3:-1] == [
        f"fine-tuned: {moved}",
        "The factors are of a relative of this base: its weights have moved since.",
    ]
    assert lines[-1].startswith("  next: Merge into the base that the adapter was trained on")
    assert len(json.loads(tinylora("verify-base", adapter, "--base", base, "--json").out)["modules"]) == 14
